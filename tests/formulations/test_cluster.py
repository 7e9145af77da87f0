"""Clusters: the TOML form, its defaults, and what is refused in it."""

import numpy as np
import pytest

from formulations import Cluster

WORKERS = """
[[worker]]
name = "cam0"
macs_per_second = 2.0e9
memory_bytes = 1073741824
[[worker]]
name = "cam1"
macs_per_second = 1e9
[[worker]]
name = "hub"
macs_per_second = 8_000_000_000
memory_bytes = 0
"""
DEFAULT_LINKS = """
[links]
bytes_per_second = 10.0e6
seconds = 0.001
"""
FAST_LINK = """
[[link]]
from = "cam0"
to = "hub"
bytes_per_second = 40.0e6
"""
TWO = """
[[worker]]
name = "a"
macs_per_second = 1.0
[[worker]]
name = "b"
macs_per_second = 1.0
"""
BOTH_WAYS = """
[[link]]
from = "a"
to = "b"
bytes_per_second = 5
seconds = 2
[[link]]
from = "b"
to = "a"
bytes_per_second = 10
"""


@pytest.fixture
def read(tmp_path):
    """Reads a cluster from TOML text."""

    def from_text(text):
        (tmp_path / "cluster.toml").write_text(text, encoding="utf-8")
        return Cluster.read(tmp_path / "cluster.toml")

    return from_text


def test_workers(read):
    """Names, speeds and memories in the order of the file; no memory given means no limit, 0 means none."""
    cluster = read(WORKERS + DEFAULT_LINKS)
    assert cluster.worker_names == ("cam0", "cam1", "hub")
    assert cluster.num_workers == 3
    assert cluster.macs_per_second.tolist() == [2e9, 1e9, 8e9]
    assert cluster.memory_bytes.tolist() == [1073741824, -1, 0]


def test_default_links_and_one_of_its_own(read):
    """[links] holds for every ordered pair that is not listed, and for what a listed one leaves out."""
    cluster = read(WORKERS + DEFAULT_LINKS + FAST_LINK)
    assert cluster.bytes_per_second.tolist() == [[0, 1e7, 4e7], [1e7, 0, 1e7], [1e7, 1e7, 0]]
    # The latency of cam0 → hub is the default's; hub → cam0 is another link.
    assert cluster.seconds[0, 2] == 0.001
    only_latency = read(WORKERS + DEFAULT_LINKS + '[[link]]\nfrom = "hub"\nto = "cam1"\nseconds = 0.5')
    assert only_latency.bytes_per_second[2, 1] == 1e7
    assert only_latency.seconds[2, 1] == 0.5


def test_links_without_a_default(read):
    """With every ordered pair listed, no [links] is needed; latency is then 0."""
    cluster = read(TWO + BOTH_WAYS)
    assert cluster.bytes_per_second.tolist() == [[0, 5], [10, 0]]
    assert cluster.seconds.tolist() == [[0, 2], [0, 0]]


def test_default_price(read):
    """A byte costs in proportion to 1 / speed, on average 1 over the ordered pairs."""
    cluster = read(WORKERS + DEFAULT_LINKS + FAST_LINK)
    # Five links at 1/10 and one at 1/40 per MB: mean (5/10 + 1/40)/6 = 0.0875.
    assert cluster.price[0, 2] == pytest.approx(0.025 / 0.0875)
    assert cluster.price[2, 0] == pytest.approx(0.1 / 0.0875)
    assert cluster.price.sum() / 6 == pytest.approx(1.0)
    assert np.diag(cluster.price).tolist() == [0, 0, 0]


def test_explicit_price(read):
    """A price that is given stands, 0 too; the others keep their defaults."""
    cluster = read(WORKERS + DEFAULT_LINKS + FAST_LINK + "price = 0.0\n")
    assert cluster.price[0, 2] == 0
    assert cluster.price[2, 0] == pytest.approx(0.1 / 0.0875)


def test_one_worker(read):
    """One worker needs no links."""
    cluster = read('[[worker]]\nname = "only"\nmacs_per_second = 1')
    assert cluster.num_workers == 1
    assert cluster.price.tolist() == [[0]]


def test_equal_cluster():
    """`--workers P`: equal speeds, equal links at price 1, no memory limit."""
    cluster = Cluster.equal(3)
    off_diagonal = ~np.eye(3, dtype=bool)
    assert cluster.worker_names == ("w0", "w1", "w2")
    assert len(set(cluster.macs_per_second.tolist())) == 1
    assert len(set(cluster.bytes_per_second[off_diagonal].tolist())) == 1
    assert cluster.price[off_diagonal].tolist() == pytest.approx([1.0] * 6)
    assert cluster.memory_bytes.tolist() == [-1, -1, -1]
    assert Cluster.equal(1).num_workers == 1


@pytest.mark.parametrize("num_workers", [0, -1])
def test_equal_cluster_of_nobody(refused, num_workers):
    """A cluster has at least one worker."""
    with refused(str(num_workers)):
        Cluster.equal(num_workers)


def test_graph(read):
    """The networkx view has a node per worker and a directed edge per link, with their attributes."""
    graph = read(WORKERS + DEFAULT_LINKS + FAST_LINK).graph()
    assert graph.is_directed()
    assert list(graph.nodes) == ["cam0", "cam1", "hub"]
    assert graph.nodes["cam0"] == {"macs_per_second": 2e9, "memory_bytes": 1073741824}
    assert "memory_bytes" not in graph.nodes["cam1"]
    assert graph.number_of_edges() == 6
    assert graph.edges["cam0", "hub"]["bytes_per_second"] == 4e7
    assert graph.edges["hub", "cam0"]["bytes_per_second"] == 1e7
    assert set(graph.edges["cam0", "hub"]) == {"bytes_per_second", "seconds", "price"}


CARDS = (
    TWO.replace("1.0", "1.0\negress_bytes_per_second = 3\nlayer_seconds = 1e-05\noverhead_seconds_per_byte = 2e-08", 1)
    + DEFAULT_LINKS
)


def test_cards_and_fixed_costs(read):
    """What is not given is no limit and no cost, is not listed, and is not in the graph."""
    cluster = read(CARDS)
    assert cluster.egress_bytes_per_second.tolist() == [3, np.inf]
    assert cluster.ingress_bytes_per_second.tolist() == [np.inf, np.inf]
    assert cluster.layer_seconds.tolist() == [1e-5, 0]
    assert cluster.overhead_seconds_per_byte.tolist() == [2e-8, 0]
    given = {
        "macs_per_second": 1.0, "egress_bytes_per_second": 3.0, "layer_seconds": 1e-5,
        "overhead_seconds_per_byte": 2e-8,
    }  # fmt: skip
    assert cluster.to_table()["worker"] == [{"name": "a", **given}, {"name": "b", "macs_per_second": 1.0}]
    assert cluster.graph().nodes["a"] == given
    assert cluster.graph().nodes["b"] == {"macs_per_second": 1.0}
    assert Cluster.equal(2).to_table() == Cluster.from_table(Cluster.equal(2).to_table()).to_table()


def test_cards_change_no_prices(read):
    """A byte's price is its link's, whatever the cards are."""
    assert np.array_equal(read(CARDS).price, read(TWO + DEFAULT_LINKS).price)


FIELDS = (
    "macs_per_second", "memory_bytes", "bytes_per_second", "seconds", "price", "egress_bytes_per_second",
    "ingress_bytes_per_second", "layer_seconds", "overhead_seconds_per_byte",
)  # fmt: skip


@pytest.mark.parametrize("text", [WORKERS + DEFAULT_LINKS + FAST_LINK + "price = 0.1\n", TWO + BOTH_WAYS, CARDS])
def test_written_and_read(read, tmp_path, text):
    """A file has all of the cluster, after its comment."""
    cluster = read(text)
    cluster.write(tmp_path / "again.toml", "measured\non a\tTuesday")
    assert (tmp_path / "again.toml").read_text().startswith('# measured\n# on aTuesday\n\n[[worker]]\nname = "')
    again = Cluster.read(tmp_path / "again.toml")
    assert again.worker_names == cluster.worker_names
    for field in FIELDS:
        assert np.array_equal(getattr(again, field), getattr(cluster, field)), field
    assert again.to_table() == cluster.to_table()


def test_any_number_and_name_can_be_written(tmp_path):
    """Numbers at the ends of float64, and every control character, quote and backslash."""
    names = ("".join(map(chr, range(0x180))), '"""', "\\u0041\\", "\u2028🦆")
    speeds = np.array([5e-324, 1.7976931348623157e308, 0.1, 1e16])
    cluster = Cluster(names, speeds, np.full(4, 2**61), np.full((4, 4), 1 / 3), np.full((4, 4), 1e-9))
    cluster.write(tmp_path / "odd.toml")
    again = Cluster.read(tmp_path / "odd.toml")
    assert again.worker_names == names
    for field in FIELDS:
        assert np.array_equal(getattr(again, field), getattr(cluster, field)), field


def test_files_that_cannot_be_written(refused, tmp_path):
    """A folder that is a file, and a name that is no text, leave nothing behind."""
    (tmp_path / "file").touch()
    with refused("file", "cannot be written"):
        Cluster.equal(2).write(tmp_path / "file" / "c.toml")
    odd = Cluster(("\ud800",), [1.0], [-1], [[0.0]], [[0.0]])
    with refused("UTF-8"):
        odd.write(tmp_path / "odd.toml")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_cluster_is_frozen():
    """A cluster cannot be changed."""
    cluster = Cluster.equal(2)
    with pytest.raises(AttributeError):
        cluster.price = cluster.seconds
    with pytest.raises(ValueError, match="read-only"):
        cluster.price[0, 1] = 3


def worker(**changed):
    """A cluster of one worker with some values changed, as TOML; None leaves a key out."""
    values = {"name": '"a"', "macs_per_second": "1.0", **changed}
    return "[[worker]]\n" + "\n".join(f"{key} = {value}" for key, value in values.items() if value is not None)


def link(**changed):
    """Workers a and b, a [links] default, and one link with some values changed."""
    values = {"from": '"a"', "to": '"b"', **changed}
    lines = "\n".join(f"{key} = {value}" for key, value in values.items() if value is not None)
    return f"{TWO}[links]\nbytes_per_second = 1\n[[link]]\n{lines}"


#: (TOML text, what the message must mention besides the file)
BAD = {
    "unknown table": (TWO + DEFAULT_LINKS + "[node]\nx = 1", ["'node'"]),
    "unknown worker key": (worker(memory="3"), ["'a'", "'memory'", "memory_bytes"]),
    "unknown default key": (TWO + DEFAULT_LINKS + "latency = 1", ["[links]", "'latency'"]),
    "unknown link key": (link(prize="1"), ["a → b", "'prize'", "did you mean 'price'?"]),
    "no worker": (DEFAULT_LINKS, ["worker"]),
    "empty file": ("", ["worker"]),
    "one [worker] table": ('[worker]\nname = "a"\nmacs_per_second = 1', ["[[worker]]"]),
    "worker is a number": ("worker = 3", ["[[worker]]"]),
    "one [link] table": (TWO + DEFAULT_LINKS + '[link]\nfrom = "a"\nto = "b"', ["[[link]]"]),
    "several [[links]]": (TWO + "[[links]]\nbytes_per_second = 1", ["[links]"]),
    "no name": (worker(name=None), ["name"]),
    "empty name": (worker(name='""'), ["name", "''"]),
    "name is a number": (worker(name="3"), ["name", "3"]),
    "two workers alike": (worker() + "\n" + worker(), ["'a'", "different"]),
    "no speed": (worker(macs_per_second=None), ["'a'", "macs_per_second"]),
    "negative speed": (worker(macs_per_second="-1"), ["'a'", "macs_per_second", "-1"]),
    "zero speed": (worker(macs_per_second="0"), ["'a'", "macs_per_second", "0"]),
    "speed is NaN": (worker(macs_per_second="nan"), ["'a'", "macs_per_second", "nan"]),
    "speed is inf": (worker(macs_per_second="inf"), ["'a'", "macs_per_second", "inf"]),
    "speed is bool": (worker(macs_per_second="true"), ["'a'", "macs_per_second", "True"]),
    "speed is string": (worker(macs_per_second='"fast"'), ["'a'", "macs_per_second", "'fast'"]),
    "speed beyond float": (worker(macs_per_second="1" + "0" * 400), ["'a'", "macs_per_second"]),
    "card without speed": (worker(egress_bytes_per_second="0"), ["'a'", "egress_bytes_per_second", "0", "> 0"]),
    "card of inf": (worker(ingress_bytes_per_second="inf"), ["'a'", "ingress_bytes_per_second", "finite"]),
    "negative fixed cost": (worker(layer_seconds="-1"), ["'a'", "layer_seconds", "-1", ">= 0"]),
    "negative memory": (worker(memory_bytes="-1"), ["'a'", "memory_bytes", "-1"]),
    "half a byte": (worker(memory_bytes="1.5"), ["'a'", "memory_bytes", "1.5"]),
    "endless memory": (worker(memory_bytes="1e30"), ["'a'", "memory_bytes"]),
    "no default rate": (TWO + "[links]\nseconds = 1", ["[links]", "bytes_per_second"]),
    "zero default rate": (TWO + "[links]\nbytes_per_second = 0", ["[links]", "bytes_per_second"]),
    "negative latency": (TWO + "[links]\nbytes_per_second = 1\nseconds = -1", ["[links]", "seconds", "-1"]),
    "link without from": (link(**{"from": None}), ["'from'"]),
    "link without to": (link(to=None), ["'to'"]),
    "link to nobody": (link(to='"bb"'), ["'bb'", "did you mean 'b'?"]),
    "link from a number": (link(**{"from": "0"}), ["from", "0"]),
    "link to itself": (link(to='"a"'), ["'a'", "itself"]),
    "link listed twice": (link() + '\n[[link]]\nfrom = "a"\nto = "b"', ["a → b", "twice"]),
    "link rate NaN": (link(bytes_per_second="nan"), ["a → b", "bytes_per_second", "nan"]),
    "link rate zero": (link(bytes_per_second="0.0"), ["a → b", "bytes_per_second"]),
    "link latency string": (link(seconds='"1 ms"'), ["a → b", "seconds", "'1 ms'"]),
    "link price negative": (link(price="-0.5"), ["a → b", "price", "-0.5"]),
    "link price bool": (link(price="false"), ["a → b", "price", "False"]),
    "links missing": (TWO, ["a → b", "[links]"]),
    "one direction missing": (TWO + '[[link]]\nfrom = "a"\nto = "b"\nbytes_per_second = 1', ["b → a"]),
    "rate missing without default": (TWO + '[[link]]\nfrom = "a"\nto = "b"', ["a → b", "bytes_per_second"]),
    "name of two lines": (worker(name='"a\\nb"', macs_per_second="0"), ["macs_per_second"]),
    "link between names of two lines": (link(price="-1").replace('"a"', '"a\\nb"'), ["price"]),
    "not TOML": ("workers: 3\n", ["TOML"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(refused, read, case):
    """Each mistake in a cluster file is refused on one line with the file, the table and the value."""
    text, mentioned = BAD[case]
    with refused("cluster.toml", *mentioned):
        read(text)


def test_files_that_cannot_be_read(refused, tmp_path):
    """A missing file, a folder and binary content are refused by name."""
    with refused("nowhere.toml", "cannot be read"):
        Cluster.read(tmp_path / "nowhere.toml")
    with refused(str(tmp_path), "cannot be read"):
        Cluster.read(tmp_path)
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with refused("binary.toml", "TOML"):
        Cluster.read(tmp_path / "binary.toml")


#: What a cluster of two workers is made from in Python.
ARRAYS = {
    "worker_names": ("a", "b"),
    "macs_per_second": np.ones(2),
    "memory_bytes": np.array([-1, -1]),
    "bytes_per_second": np.ones((2, 2)),
    "seconds": np.zeros((2, 2)),
}


@pytest.mark.parametrize(
    ("changed", "mentioned"),
    [
        ({"worker_names": ()}, "worker"),
        ({"worker_names": ("a", "a")}, "'a'"),
        ({"worker_names": ("a", "")}, "''"),
        ({"worker_names": ("a", 3)}, "3"),
        ({"macs_per_second": np.ones(3)}, "macs_per_second"),
        ({"macs_per_second": np.array([1.0, -1.0])}, "macs_per_second of b"),
        ({"memory_bytes": np.array([5])}, "memory_bytes"),
        ({"memory_bytes": np.array([5, -2])}, "memory_bytes"),
        ({"memory_bytes": np.array([5, 1.5])}, "memory_bytes of b"),
        ({"memory_bytes": np.array([5, 1e30])}, "memory_bytes of b"),
        ({"bytes_per_second": np.ones(2)}, "bytes_per_second"),
        ({"bytes_per_second": np.ones((3, 3))}, "bytes_per_second"),
        ({"bytes_per_second": np.zeros((2, 2))}, "bytes_per_second of a → b"),
        ({"seconds": np.full((2, 2), np.nan)}, "seconds of a → b"),
        ({"price": np.full((2, 2), -1.0)}, "price of a → b"),
        ({"price": np.ones((2, 3))}, "price"),
        ({"egress_bytes_per_second": np.array([np.inf, 0.0])}, "egress_bytes_per_second of b"),
        ({"ingress_bytes_per_second": np.array([np.nan, 1.0])}, "ingress_bytes_per_second of a"),
        ({"ingress_bytes_per_second": np.ones(3)}, "ingress_bytes_per_second"),
        ({"layer_seconds": np.array([0.0, np.inf])}, "layer_seconds of b"),
        ({"layer_seconds": np.array([-1.0, 0.0])}, "layer_seconds of a"),
    ],
)
def test_bad_arrays(refused, changed, mentioned):
    """A cluster made in Python checks itself just the same."""
    assert Cluster(**ARRAYS).num_workers == 2
    with refused(mentioned):
        Cluster(**{**ARRAYS, **changed})


def test_lists_will_do_for_arrays():
    """A cluster takes lists as well as arrays, and keeps copies."""
    rates = np.array([[0.0, 2.0], [4.0, 0.0]])
    lists = Cluster(("a", "b"), [1, 1], [-1, -1], rates.tolist(), [[0, 0], [0, 0]])
    made = Cluster(**{**ARRAYS, "bytes_per_second": rates})
    rates[0, 1] = 99
    assert made.bytes_per_second.tolist() == lists.bytes_per_second.tolist() == [[0, 2], [4, 0]]
    assert made.price.tolist() == lists.price.tolist()
