# mypy: disable-error-code="no-untyped-call"
"""Kernels through Numba, by a shorter way than its own.

Numba optimizes each function that another calls, and makes machine code of it, before it goes on
with the other: a third of the time. Those here are inlined, but for one in each worker; they are
put together as they are, and optimized then. Nor do they need all the passes that Numba has before
it knows types, or what it knows of arrays, strings and the extensions of others.
"""

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from llvmlite import binding, ir
from numba import _dynfunc, types  # type: ignore[attr-defined]
from numba.core import codegen, compiler, cpu, registry, typed_passes, untyped_passes
from numba.core.compiler_machinery import PassManager, register_pass
from numba.core.typing import templates
from numba.core.typing.context import BaseContext

from l2multi.backends.numba import machine

_OPTIONS: dict[str, Any] = {
    "nopython": True, "error_model": "numpy",  # plain Python arithmetic, IEEE to the letter
    "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True
}  # fmt: skip


class _Typing(BaseContext):
    """The types of what numbers, tuples and ranges can do, and of primitives. No attributes: for
    those Numba imports all that it knows."""

    _ready = False

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[Any, Any] = {}

    def resolve_function_type(self, func: Any, args: Any, kws: Any) -> Any:
        if kws or isinstance(func, types.Dispatcher):
            return super().resolve_function_type(func, args, kws)
        found = self._known.get((func, args))
        if found is None:
            found = self._known[func, args] = super().resolve_function_type(func, args, kws)
        return found

    def refresh(self) -> None:
        if self._ready:
            return
        for template in templates.builtin_registry.functions:
            self.insert_function(template(self))
        for value, kind in templates.builtin_registry.globals:
            known = self._lookup_global(value)
            if known is not None:
                kind = known.augment(kind)
                self._remove_global(value)
            self.insert_global(value, kind)
        self._ready = True  # last: an interrupt may come before


class _Codegen(codegen.AOTCPUCodegen):
    """Modules for the level that this process compiles for; nothing is run here."""

    def _init(self, llvm_module: Any) -> None:
        self._tm = machine.aimed().target_machine()
        self._target_data = self._tm.target_data
        self._data_layout = str(self._target_data)
        self._tm_features, self._loopvect, self._opt_level = "", False, 0

    def _create_empty_module(self, name: str) -> Any:
        module = super()._create_empty_module(name)
        module.triple = machine.aimed().triple or module.triple
        return module


class _Context(cpu.CPUContext):
    """The code of these."""

    def init(self) -> None:
        self.is32bit = False

    @functools.cached_property
    def _internal_codegen(self) -> Any:  # type: ignore[override]  # late, for `machine.aim` comes first
        return _Codegen("l2multi")

    def load_additional_registries(self) -> None:
        from numba.core import optional  # noqa: F401
        from numba.cpython import builtins, iterators, numbers, rangeobj, tupleobj  # noqa: F401

    def post_lowering(self, module: Any, library: Any) -> None:
        """No runtime is linked: nothing here counts references."""


class _Target(registry.CPUTarget):
    typing_context = _Typing()
    target_context = _Context(typing_context, "cpu")


class _Dispatcher(registry.CPUDispatcher):
    targetdescr = _Target("cpu")

    def _compilation_chain_init_hook(self) -> None:
        """No extension of Numba's is loaded."""


def primitive(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make a function that kernels can call of ``build(builder, *values)``, which makes its
    instructions."""
    signature = result(*arguments)

    def decorate(build: Callable[..., Any]) -> Any:
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            value = build(builder, *values)
            return context.get_dummy_value() if value is None else value

        members = {"key": code, "cases": [signature]}
        template = type("Template", (templates.ConcreteTemplate,), members)
        _Target.typing_context.insert_global(code, types.Function(template))
        _Target.target_context.insert_func_defn([(code, code, signature.args)])
        return code

    return decorate


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
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        module = self._final_module
        for symbol in (*module.functions, *module.global_variables):
            if symbol.name != name and not symbol.is_declaration:
                symbol.linkage = binding.Linkage.internal
        apart = {
            symbol.name
            for symbol in module.functions
            if symbol.name != name and not any(b"alwaysinline" in a for a in symbol.attributes)
        }

        def with_attributes(found: re.Match[str]) -> str:
            told = " noinline" if found[1] in apart else ""
            return f'{found[0]}{told} "tune-cpu"="{machine.aimed().like}"'

        # In text: up to 0.44 llvmlite gives attributes to the return value.
        text = re.sub(r'(?<=\n)define .*?@"?([^"(]+)"?\(.*\)', with_attributes, str(module))
        module = binding.parse_assembly(text)
        # Once, with all inlined: done to each function before and after, as Numba does, that takes
        # four times as long and makes twice the code, which is no faster. Vectors are there by now.
        module.data_layout = str(self._codegen.target_data)
        tuning = binding.create_pipeline_tuning_options(speed_level=3)
        tuning.loop_vectorization = tuning.slp_vectorization = False
        builder = binding.create_pass_builder(self._codegen._tm, tuning)
        builder.getModulePassManager().run(module, builder)
        return module


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
            typed_passes.NopythonTypeInference,  # a variable has one type throughout
            _Lowering,
            typed_passes.NoPythonBackend,
        ):
            passes.add_pass(one, one.__name__)
        passes.finalize()
        return [passes]


def device(python: Callable[..., Any], inline: bool = True) -> Any:
    """Mark a function that others call, and which is inlined there, or never is."""
    options = {**_OPTIONS, "forceinline": inline}
    return _Dispatcher(python, targetoptions=options, pipeline_class=_Compiler)


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
