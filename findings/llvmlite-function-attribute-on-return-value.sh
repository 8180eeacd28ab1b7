#!/bin/sh
# llvmlite 0.44.0 (LLVM 15), CPython 3.11
#
# ValueRef.add_function_attribute("noinline") puts the attribute on the function's return value and
# not on the function. Nothing complains, but the module's text, which has "noinline" before the
# return type, cannot be read back: no return value can have that attribute. In 0.50.0 the attribute
# is the function's.
#
# Output seen:
#   0.44.0: define i64 @f written as "define noinline i64 @f(i64 %x)"; read back: no
#   0.50.0: define i64 @f written as "define i64 @f(i64 %x) #0"; read back: yes
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/look.py" <<'PY'
import sys

import llvmlite
import llvmlite.binding as llvm

if hasattr(llvm, "initialize"):
    try:
        llvm.initialize()
    except RuntimeError:  # later versions do it by themselves
        pass
module = llvm.parse_assembly("define i64 @f(i64 %x) {\n  ret i64 %x\n}\n")
(function,) = module.functions
function.add_function_attribute("noinline")
text = str(module)
(line,) = (line.rstrip(" {") for line in text.splitlines() if line.startswith("define"))
try:
    llvm.parse_assembly(text)
    back = "yes"
except RuntimeError:
    back = "no"
print(f'{llvmlite.__version__}: define i64 @f written as "{line}"; read back: {back}')
sys.exit(back != sys.argv[1])
PY
for one in "0.44.0|no" "0.50.0|yes"; do
    python3 -m venv --clear "$folder/venv"
    "$folder/venv/bin/pip" install -q "llvmlite==${one%%|*}"
    "$folder/venv/bin/python" "$folder/look.py" "${one#*|}"
done
