"""How fast l2multi is: asv's files (`bench_*`), the race, the table of peers and the gate."""
