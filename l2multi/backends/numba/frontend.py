# mypy: disable-error-code="no-untyped-call"
"""Kernels through Numba, by a shorter way than its own.

Numba optimizes each function that another calls, and makes machine code of it, before it goes on
with the other: a third of the time. Those here are only ever inlined; they are put together as they
are, and optimized then. Nor do they need all the passes that Numba has before it knows types.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numba
from llvmlite import binding, ir
from numba import _dynfunc, types  # type: ignore[attr-defined]
from numba.core import codegen, compiler, typed_passes, untyped_passes
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.runtime.nrt import rtsys

# Plain Python arithmetic, IEEE to the letter.
_OPTIONS: dict[str, Any] = {
    "error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True
}  # fmt: skip


class _Library(codegen.CPUCodeLibrary):
    """The code of a function as it was made, and the libraries of those it calls."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: list[Any] = []

    def add_linking_library(self, library: Any) -> None:
        self.calls.append(library)

    def add_llvm_module(self, module: Any) -> None:
        self._final_module.link_in(module)

    def finalize(self) -> None:
        self._finalized = True

    def all_calls(self, seen: set[Any]) -> Iterator[Any]:
        """The libraries of all functions that are called from here, each once."""
        for library in self.calls:
            if library not in seen:
                seen.add(library)
                yield library
                if isinstance(library, _Library):
                    yield from library.all_calls(seen)

    def whole(self, name: str) -> Any:
        """The optimized module of a function and of all that it calls; it can be called by `name`
        alone."""
        for library in self.all_calls({self}):
            if library is not rtsys.library:  # Numba's runtime
                self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        for symbol in (*self._final_module.functions, *self._final_module.global_variables):
            if symbol.name != name and not symbol.is_declaration:
                symbol.linkage = binding.Linkage.internal
        # Each function by itself, all of them inlined, and what comes of that once more: without
        # the first, short rows take 1.1 times as long; without the last, "packed" 1.5 times.
        self._optimize_functions(self._final_module)
        self._optimize_final_module()
        self._optimize_functions(self._final_module)
        return self._final_module


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(typed_passes.NativeLowering):
    """Lowering to a library that is called by other libraries only."""

    _name = "l2multi_lowering"

    def run_pass(self, state: Any) -> bool:
        name = state.func_id.func_qualname
        state.library = _Library(state.targetctx.codegen(), name)
        state.flags.no_compile = True
        super().run_pass(state)
        # What Numba knows a compiled function by. There is none, and nobody calls it.
        module = state.cr.fndesc.lookup_module()
        key = _dynfunc.make_function(module, name, name, 0, state.cr.env, ())
        state.targetctx.insert_user_function(key, state.cr.fndesc, [state.library])
        state.cr = state.cr._replace(cfunc=key)
        return True


class _Compiler(compiler.CompilerBase):
    """The passes of Numba's that kernels need."""

    def define_pipelines(self) -> list[Any]:
        passes = PassManager("l2multi")
        for one in (
            untyped_passes.TranslateByteCode,
            untyped_passes.FixupArgs,
            untyped_passes.IRProcessing,
            untyped_passes.RewriteSemanticConstants,
            untyped_passes.DeadBranchPrune,  # what is not for these kinds has no types
            untyped_passes.ReconstructSSA,
            typed_passes.NopythonTypeInference,
            typed_passes.PreLowerStripPhis,
            typed_passes.IRLegalization,
            _Lowering,
            typed_passes.NoPythonBackend,
        ):
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]


device = numba.njit(**_OPTIONS, forceinline=True, pipeline_class=_Compiler)


class Function(NamedTuple):
    """What is to be compiled to a plain C function."""

    python: Callable[..., Any]
    signature: Any


def function(signature: Any) -> Callable[[Callable[..., Any]], Function]:
    """Mark a function of integers, addresses among them, to be compiled to one in C."""
    return lambda python: Function(python, signature)


def compiled(function: Function, name: str) -> Any:
    """The module of a function in C of this name.

    Numba's takes the addresses of a result and of an error, and reports errors, which there are
    none, by way of Numba's runtime; that would have to be there whenever the code is linked.
    """
    dispatcher = device(function.python)
    dispatcher.compile(function.signature)
    (made,) = dispatcher.overloads.values()
    context, sig = made.target_context, made.signature
    module = context.create_module(name)
    convention = context.call_conv
    inner = ir.Function(
        module, convention.get_function_type(sig.return_type, sig.args), made.fndesc.llvm_func_name
    )
    result = ir.VoidType() if sig.return_type == types.void else ir.IntType(64)
    outer = ir.Function(
        module, ir.FunctionType(result, [context.get_value_type(a) for a in sig.args]), name
    )
    builder = ir.IRBuilder(outer.append_basic_block())
    _, value = convention.call_function(builder, inner, sig.return_type, sig.args, outer.args)
    builder.ret_void() if isinstance(result, ir.VoidType) else builder.ret(value)
    made.library.add_ir_module(module)
    return made.library.whole(name)
