"""The floating-point modes of a thread, as another library may set them. Imports nothing from
l2multi."""

import contextlib
import ctypes
import functools
import platform

import llvmlite.binding as llvm
from llvmlite import ir

# As this LLVM writes them: "i8*" and "i32*" in llvmlite 0.44, "ptr" in later ones.
_BYTES, _WORD = ir.IntType(8).as_pointer(), ir.IntType(32).as_pointer()

# By machine: the LLVM assembly of functions that read and write the modes; the bits that flush
# subnormal results and inputs; the bits that round upwards; and all bits but those that say what
# has happened.
_X86 = f"""
define i64 @read() {{
  %cell = alloca i32
  %bytes = bitcast {_WORD} %cell to {_BYTES}
  call void @llvm.x86.sse.stmxcsr({_BYTES} %bytes)
  %small = load i32, {_WORD} %cell
  %modes = zext i32 %small to i64
  ret i64 %modes
}}
define void @write(i64 %modes) {{
  %cell = alloca i32
  %small = trunc i64 %modes to i32
  store i32 %small, {_WORD} %cell
  %bytes = bitcast {_WORD} %cell to {_BYTES}
  call void @llvm.x86.sse.ldmxcsr({_BYTES} %bytes)
  ret void
}}
declare void @llvm.x86.sse.stmxcsr({_BYTES})
declare void @llvm.x86.sse.ldmxcsr({_BYTES})
"""
_ARM = """
define i64 @read() {
  %modes = call i64 @llvm.aarch64.get.fpcr()
  ret i64 %modes
}
define void @write(i64 %modes) {
  call void @llvm.aarch64.set.fpcr(i64 %modes)
  ret void
}
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
"""
_MACHINES = {
    **dict.fromkeys(("x86_64", "AMD64"), (_X86, (0x8000, 0x40), 0x4000, 0xFFC0)),
    **dict.fromkeys(("aarch64", "arm64"), (_ARM, (1 << 24,), 1 << 22, -1)),
}
_TEXT, FLUSH, UPWARDS, _BITS = _MACHINES.get(platform.machine(), (None, (), 0, 0))


@functools.cache
def _functions():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_TEXT), machine)
    engine.finalize_object()
    read = ctypes.PYFUNCTYPE(ctypes.c_int64)(engine.get_function_address("read"))
    write = ctypes.PYFUNCTYPE(None, ctypes.c_int64)(engine.get_function_address("write"))
    return engine, read, write


@contextlib.contextmanager
def changed(bits):
    """Within this block, the thread computes with these bits of its modes set; at its end they must
    still be."""
    _, read, write = _functions()
    before = read()
    write(before | bits)
    try:
        yield
        after = read()
    finally:
        write(before)
    assert after & _BITS == (before | bits) & _BITS, hex(after)
