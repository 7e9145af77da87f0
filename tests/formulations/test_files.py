"""Problem and assignment files: damaged, foreign and misspelt ones are refused, writing leaves no half files."""

import io
import os
import pickle
import stat
import struct
import threading
import zipfile

import numpy as np
import pytest

from formulations import Assignment, LayerProblem
from formulations.files import read_arrays, write_file

GOOD = {"prune_cost": [[5, 3], [2, 8]], "input_worker": [0, 1], "send_cost": [[0, 4], [6, 0]]}


@pytest.fixture
def problem():
    return LayerProblem(**GOOD, name="fc1")


@pytest.fixture
def save(tmp_path):
    """Writes arrays as an .npz with numpy alone and returns its path."""

    def write(schema="layer-problem/1", **changed):
        arrays = {key: value for key, value in {**GOOD, **changed}.items() if value is not None}
        if schema is not None:
            arrays["schema"] = schema
        np.savez(tmp_path / "given.npz", **arrays)
        return tmp_path / "given.npz"

    return write


@pytest.fixture
def pack(tmp_path):
    """Writes a good problem as a zip whose members may be replaced by any bytes, and returns its path."""

    def write(replaced):
        members = {f"{key}.npy": as_npy(value) for key, value in {**GOOD, "schema": "layer-problem/1"}.items()}
        for name, content in replaced.items():
            members.pop(f"{name}.npy", None)
            members[name] = content
        with zipfile.ZipFile(tmp_path / "given.npz", "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return tmp_path / "given.npz"

    return write


def as_npy(value):
    """The bytes of an .npy file."""
    file = io.BytesIO()
    np.save(file, np.asarray(value), allow_pickle=True)
    return file.getvalue()


def npy_with_header(header):
    """The bytes of an .npy file with this header text and some zeros for data."""
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(64)


class Bomb:
    """Says so when it is unpickled."""

    exploded = False  # set by `explode`

    def __reduce__(self):
        return (explode, ())


def explode():
    Bomb.exploded = True


def test_every_truncation_is_refused(refused, problem, tmp_path):
    """A file cut short anywhere is refused as such; nothing is read from the rest."""
    problem.write(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    cut = tmp_path / "cut.npz"
    # All the short ones, some in the middle, and every cut within the directory at the end.
    for length in [*range(0, 40, 3), *range(40, len(whole), 97), *range(len(whole) - 30, len(whole))]:
        cut.write_bytes(whole[:length])
        with refused(str(cut)):
            LayerProblem.read(cut)


def test_damaged_bytes_never_crash_or_change_costs(problem, tmp_path, refused):
    """With a byte flipped in the stored data, a file is refused or read as the same problem."""
    problem.write(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    flipped = tmp_path / "flipped.npz"
    num_refused = 0
    # The data come before the archive's directory, which starts at its first signature.
    for position in range(0, whole.index(b"PK\x01\x02"), 7):
        flipped.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            assert LayerProblem.read(flipped).digest == problem.digest
        except ValueError:
            with refused(str(flipped)):
                LayerProblem.read(flipped)
            num_refused += 1
    assert num_refused > 100


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"layer: fc1\nneurons: 2\n", id="text"),
        pytest.param(b"PK\x03\x04", id="only a zip signature"),
        pytest.param(b"\x93NUMPY\x09\x00", id="npy of an unknown version"),
        pytest.param(bytes(range(256)) * 4, id="binary"),
        pytest.param(pickle.dumps(GOOD), id="pickle"),
        pytest.param(as_npy([[1, 2]]), id="npy"),
    ],
)
@pytest.mark.parametrize("kind", [LayerProblem, Assignment])
def test_other_files_are_refused(refused, tmp_path, kind, content):
    """What is not an .npz is refused on one line that names the file and gives no unsafe advice."""
    (tmp_path / "thing.npz").write_bytes(content)
    with refused(str(tmp_path / "thing.npz"), ".npz") as caught:
        kind.read(tmp_path / "thing.npz")
    # numpy's own advice for whatever it does not know is to unpickle it.
    assert "allow_pickle" not in str(caught.value)


def test_a_bare_array_is_called_that(refused, tmp_path):
    """An .npy file is told apart from damage."""
    np.save(tmp_path / "costs.npy", np.eye(2))
    with refused("costs.npy", "bare array", "layer-problem/1"):
        LayerProblem.read(tmp_path / "costs.npy")


def test_missing_file(refused, tmp_path):
    """A file that is not there is called missing, not damaged."""
    with refused("nowhere.npz", "no such file"):
        LayerProblem.read(tmp_path / "nowhere.npz")
    with refused("nowhere.npz", "no such file"):
        Assignment.read(tmp_path / "nowhere.npz")


def test_directory(refused, tmp_path):
    """A folder is no problem file."""
    with refused(str(tmp_path), "directory"):
        LayerProblem.read(tmp_path)


def test_schema_is_required(refused, save):
    """An .npz of someone else's is refused by the missing or other schema."""
    with refused("no array 'schema'", "layer-problem/1"):
        LayerProblem.read(save(schema=None))
    with refused("'assignment/1'", "'layer-problem/1'"):
        LayerProblem.read(save(schema="assignment/1"))
    with refused("layer-problem/2"):
        LayerProblem.read(save(schema="layer-problem/2"))
    with refused("schema"):
        LayerProblem.read(save(schema=np.eye(3)))
    with refused("schema", "'assignment/1'"):
        Assignment.read(save())


@pytest.mark.parametrize("key", GOOD)
def test_missing_arrays_are_named(refused, save, key):
    """A required array that is absent is named."""
    with refused("given.npz", key):
        LayerProblem.read(save(**{key: None}))


def test_unknown_arrays_are_refused_with_the_nearest_name(refused, save):
    """A misspelt option is not ignored, and the message suggests what was meant."""
    with refused("'place_costs'", "did you mean 'place_cost'?"):
        LayerProblem.read(save(place_costs=[[0, 0], [0, 0]]))
    with refused("'ingres_capacity'", "did you mean 'ingress_capacity'?"):
        LayerProblem.read(save(ingres_capacity=[9, 9]))
    with refused("'zzz'", "prune_cost"):
        LayerProblem.read(save(zzz=[1]))


def test_pickled_arrays_are_never_unpickled(refused, save, pack):
    """An object array inside an .npz is refused before its content is looked at."""
    with refused("given.npz"):
        LayerProblem.read(save(place_cost=np.array([[Bomb(), 1], [2, 3]], dtype=object)))
    with refused("given.npz"):
        LayerProblem.read(pack({"send_cost.npy": as_npy(np.array([Bomb()], dtype=object))}))
    assert not Bomb.exploded
    pickle.loads(pickle.dumps(Bomb()))
    assert Bomb.exploded, "the test proves nothing: unpickling goes unnoticed"


@pytest.mark.parametrize("member", ["schema", "prune_cost", "communication", "name", "scale", "worker_names"])
def test_members_that_are_no_arrays_are_refused(refused, pack, member):
    """A zip member that holds plain bytes in place of an array is bad input."""
    with refused("given.npz"):
        LayerProblem.read(pack({member: b"layer-problem/1"}))


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<i8', 'fortran_order': False, 'shape': (3,",
        f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({10**30},)}}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (-3,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<i8', 'fortran_order': False, 'shape': (99999999999999,)}",
        "{'descr': 7, 'fortran_order': False, 'shape': (2,)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,)}",
        "nonsense",
        "\0",
        "[" * 100,
    ],
    ids=range(10),
)
def test_damaged_array_headers_are_refused(refused, pack, header):
    """Whatever stands in an array's header, the answer is one line and not a traceback."""
    with refused("given.npz"):
        LayerProblem.read(pack({"prune_cost.npy": npy_with_header(header)}))


@pytest.mark.parametrize(
    ("changed", "mentioned"),
    [
        ({"communication": "by_bird"}, "'by_bird'"),
        ({"communication": ["inputs", "inputs"]}, "communication"),
        ({"objective": 3}, "objective"),
        ({"name": ["a", "b"]}, "name"),
        ({"name": ""}, "name"),
        ({"scale": 3.0}, "scale"),
        ({"scale": "big"}, "scale"),
        ({"scale": [1.0, 2.0]}, "scale"),
        ({"scale": float("nan")}, "scale"),
        ({"rounding_bound": 0.5}, "rounding_bound"),
        ({"scale": 1.0, "rounding_bound": -0.5}, "rounding_bound"),
        ({"scale": 1.0, "num_zeroed": -1}, "num_zeroed"),
        ({"scale": 1.0, "num_zeroed": 1.5}, "num_zeroed"),
        ({"prune_cost": [["a", "b"]]}, "prune_cost"),
        ({"send_cost": [[0, float("inf")], [1, 0]]}, "send_cost[0,1]"),
    ],
)
def test_bad_content_names_file_and_array(refused, save, changed, mentioned):
    """Content that makes no problem is refused with the file and the array."""
    with refused("given.npz", mentioned):
        LayerProblem.read(save(**changed))


@pytest.mark.parametrize("messages", [{}, {"sent": [[False, True]]}, {"partial": [[True, False], [False, False]]}])
def test_assignments_survive_a_file(tmp_path, messages):
    """Writing and reading an assignment keeps what is there and what is absent."""
    assignment = Assignment([0, 1], problem_digest="abc" if messages else None, **messages)
    assignment.write(tmp_path / "a.npz")
    again = Assignment.read(tmp_path / "a.npz")
    assert again.worker.tolist() == [0, 1]
    assert again.problem_digest == assignment.problem_digest
    for key in ("sent", "partial"):
        before, after = getattr(assignment, key), getattr(again, key)
        assert (after is None) == (before is None)
        assert before is None or np.array_equal(before, after)


def test_bad_assignment_files(refused, tmp_path):
    """An assignment file without workers, or with messages of another kind, is refused with its name."""
    path = tmp_path / "a.npz"
    np.savez(path, schema="assignment/1", sent=[[True]])
    with refused("a.npz", "'worker'"):
        Assignment.read(path)
    np.savez(path, schema="assignment/1", worker=[0.5])
    with refused("a.npz", "worker"):
        Assignment.read(path)
    np.savez(path, schema="assignment/1", worker=[0], sent=[[1, 0]])
    with refused("a.npz", "sent"):
        Assignment.read(path)
    np.savez(path, schema="assignment/1", worker=[0], send=[[True]])
    with refused("a.npz", "did you mean 'sent'?"):
        Assignment.read(path)


def test_folders_are_made(problem, tmp_path):
    """Writing makes the folders it needs, and writes under exactly the given name."""
    problem.write(tmp_path / "out" / "layers" / "fc1.problem")
    assert [path.name for path in (tmp_path / "out" / "layers").iterdir()] == ["fc1.problem"]
    assert LayerProblem.read(tmp_path / "out" / "layers" / "fc1.problem").digest == problem.digest


def test_unwritable_folder(refused, problem, tmp_path):
    """Where no folder can be, writing is refused on one line and leaves nothing."""
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "file" / "p.npz", tmp_path / "file" / "deeper" / "p.npz"):
        with refused(str(path), "cannot be written"):
            problem.write(path)
        with refused(str(path), "cannot be written"):
            Assignment([0]).write(path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "in the way"


def test_writing_over_a_folder(refused, problem, tmp_path):
    """A folder is not replaced by a file, and no temporary file stays behind."""
    (tmp_path / "p.npz").mkdir()
    with refused("p.npz", "cannot be written"):
        problem.write(tmp_path / "p.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["p.npz"]


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt(), RuntimeError("bug")])
def test_a_failing_write_leaves_the_old_file(tmp_path, failure):
    """A write that fails half-way keeps the file that was there, and leaves nothing else."""
    path = tmp_path / "p.npz"
    path.write_bytes(b"old")

    def half(file):
        file.write(b"half of the new content")
        raise failure

    with pytest.raises(ValueError if isinstance(failure, OSError) else type(failure)):
        write_file(path, half)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["p.npz"]


def test_a_write_replaces_the_old_file(problem, tmp_path):
    """Writing to a name that is taken replaces the file as a whole."""
    path = tmp_path / "p.npz"
    path.write_bytes(b"x" * 100_000)
    problem.write(path)
    assert LayerProblem.read(path).digest == problem.digest
    assert path.stat().st_size < 100_000


def test_readers_keep_the_old_file(problem, tmp_path):
    """A write never shows a half-written file to someone who is reading the old one."""
    path = tmp_path / "p.npz"
    path.write_bytes(b"old content")
    with path.open("rb") as reader:
        problem.write(path)
        assert reader.read() == b"old content"


@pytest.mark.parametrize("through_link", [False, True])
def test_a_fifo_is_written_to_as_it_is(problem, tmp_path, through_link):
    """A reader at the other end of a FIFO gets the whole file, and the FIFO stays one; a link to it is no different."""
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    read = []
    reader = threading.Thread(target=lambda: read.append(fifo.read_bytes()), daemon=True)
    reader.start()
    problem.write(link if through_link else fifo)
    reader.join(10)
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert link.is_symlink()
    (tmp_path / "copy.npz").write_bytes(read[0])
    assert LayerProblem.read(tmp_path / "copy.npz").digest == problem.digest


@pytest.mark.parametrize("there", [False, True])
def test_a_symbolic_link_stays_one(tmp_path, there):
    """What a link points to is replaced as a whole, or made; the link still points there."""
    target, link = tmp_path / "elsewhere" / "target.npz", tmp_path / "link.npz"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old content")
    link.symlink_to(target)
    write_file(link, lambda file: file.write(b"new"))
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["elsewhere", "link.npz", "target.npz"]


def test_a_failing_write_through_a_link_leaves_the_old_file(tmp_path):
    """Through a symbolic link, too, a write that fails half-way changes nothing."""
    target, link = tmp_path / "target.npz", tmp_path / "link.npz"
    target.write_bytes(b"old")
    link.symlink_to(target)

    def half(file):
        file.write(b"half of the new content")
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="No space left"):
        write_file(link, half)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.npz", "target.npz"]


def test_the_longest_name_can_be_written(tmp_path):
    """A name of 255 bytes is a file name; the temporary one need not be longer."""
    path = tmp_path / ("é" * 125 + "x.npz")
    write_file(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"new"


def test_schema_is_not_returned_as_an_array(problem, tmp_path):
    """read_arrays gives the arrays asked for, without `schema`."""
    problem.write(tmp_path / "p.npz")
    known = set(np.load(tmp_path / "p.npz").files)
    assert set(read_arrays(tmp_path / "p.npz", "layer-problem/1", known)) == known - {"schema"}
