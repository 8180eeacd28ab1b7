"""Where the vectors of a call lie in memory, and which kernel that calls for: the only planner."""

# Numbers of a segment from which it need not be whole rows of lanes: the rows that lie in two
# segments, or end a vector, are copied, and took segments of 17 to 100 up to 1.6 times the time of
# the gathered ones.
LONG_SEGMENT = 2**8

# Groups of sixteen columns that make a tile, and go through together. One line of each row at a
# time is slow to come: 4000x768 float32 took 1.4 times as long (Fortran order) by one.
GROUPS = 4

# Levels of the tree over a column, and elements from which vectors that are neighbours go one by
# one: more than memory holds of any but the narrowest arrays.
TREE_LEVELS = 26
COLUMNS_MOST = 2 ** (7 + TREE_LEVELS)

# Elements of a long vector that are summed as one part, a power of two of blocks; and the most
# parts of a vector for which the fast path has room.
SPLIT, PARTS_MOST = 2**15, 2**6
