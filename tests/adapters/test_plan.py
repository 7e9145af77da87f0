"""Plans in memory and as folders: what they say, that they come back as they were, and what is not believed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from adapters import PartitionPlan, apply_plan, partition_model, pictures, plan_files
from adapters.explain import diff, explain
from adapters.extract import Prices
from adapters.file_stem import file_stem
from adapters.plan import GroupPlan, LayerPlan, Message, model_digest
from formulations import Assignment, Cluster, InputError, LayerProblem
from formulations.certificate import Certificate
from solvers import SolveLimits, solve


def _model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(OrderedDict(fc=nn.Linear(3, 2)))


def _by_hand(**changes: Any) -> PartitionPlan:
    """Two neurons on two workers.

    Neuron 0 on w0 has input 0 there and is sent input 2 (worth 4, a send costs 2); neuron 1 on w1 has inputs 1 and 2.
    Swapped, it costs 6 instead of 2.
    """
    problem = LayerProblem(
        prune_cost=[[5, 0, 4], [0, 6, 1]],
        input_worker=[0, 1, 1],
        send_cost=[[0, 2], [2, 0], [2, 0]],
        place_cost=[[0, 1], [0, 0]],
        name="fc",
    )
    model = _model()
    layer = LayerPlan(
        name="fc",
        group="fc",
        reads="input",
        worker=np.array([0, 1]),
        input_worker=np.array([0, 1, 1]),
        unit=np.array([0, 1]),
        message_bytes=np.array([4, 4, 8]),
        kept=np.array([[True, False, True], [False, True, True]]),
        partials=False,
        macs=1,
        relative_error=0.125,
    )
    whole = {
        "cluster": Cluster.equal(2),
        "layers": (layer,),
        "groups": (GroupPlan(problem, solve(problem, limits=SolveLimits(seconds=5))),),
        "messages": (Message("input", np.array([[0, 0], [8, 0]]), 16),),
        "weights": model.state_dict(),
        "model_digest": model_digest(model),
        "objective": 2.0,
        "settings": {"costs": "activation", "per_byte": 0.5},
        "warnings": ("softmax runs on one worker",),
    }
    return PartitionPlan(**{**whole, **changes})


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(conv=nn.Conv2d(2, 5, 3, padding=1), relu=nn.ReLU(), flat=nn.Flatten(), head=nn.Linear(80, 4))
    )


def _images() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(48, 2, 4, 4)


@pytest.fixture(scope="module", params=["layer by layer", "activation", "covariance"])
def planned(request: pytest.FixtureRequest) -> PartitionPlan:
    """A small CNN, planned in each way."""
    options: dict[str, Any] = {"costs": request.param, "solver": "local-search"}
    if request.param == "layer by layer":
        options = {"costs": "activation", "sweeps": False, "solver": "alternation"}
    return partition_model(
        _network(), _images()[:2], Cluster.equal(3), calibration=_images().split(16), prices=Prices(1e-3),
        limits=SolveLimits(seconds=1), **options,
    )  # fmt: skip


def _flat(value: Any) -> Any:
    """All that a plan says, as plain numbers; the proofs, which do not come back, left out."""
    if isinstance(value, LayerProblem):
        return value.digest, value.name, value.worker_names, value.scale
    if isinstance(value, Assignment):
        return [_flat(getattr(value, key)) for key in ("worker", "sent", "partial", "problem_digest")]
    if dataclasses.is_dataclass(value):
        left_out = ("proof", "trajectory", "certificate")
        return {
            field.name: _flat(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if field.name not in left_out
        }
    if isinstance(value, np.ndarray | torch.Tensor):
        return str(value.dtype), value.shape, value.tolist()
    if isinstance(value, dict | OrderedDict):
        return {key: _flat(entry) for key, entry in value.items()}
    return [_flat(entry) for entry in value] if isinstance(value, tuple | list) else value


# In memory


def test_messages_of_a_layer_by_hand() -> None:
    """Input 2, of 8 bytes, goes from w1 to w0; kernels of what is at hand send nothing."""
    count, num_bytes = _by_hand().layers[0].sends(2)
    assert count.tolist() == [[0, 0], [1, 0]]
    assert num_bytes.tolist() == [[0, 0], [8, 0]]


def test_partial_sums_of_a_layer_by_hand() -> None:
    """Neuron 0 on w0 gets one sum from w1 for input 2; neuron 1 on w1 needs nothing of w0's input."""
    layer = dataclasses.replace(_by_hand().layers[0], partials=True, message_bytes=np.array([16, 32]))
    count, num_bytes = layer.sends(2)
    assert count.tolist() == [[0, 0], [1, 0]]
    assert num_bytes.tolist() == [[0, 0], [16, 0]]


def test_messages_of_layers_add_up_to_the_traffic() -> None:
    """In a chain of layers every message has one reader, so what the layers use is what is sent."""
    plan = partition_model(
        _network(), _images()[:2], Cluster.equal(3), calibration=_images().split(16), prices=Prices(1e-3),
        solver="alternation", costs="activation", sweeps=False,
    )  # fmt: skip
    np.testing.assert_array_equal(sum(layer.sends(3)[1] for layer in plan.layers), plan.traffic)
    assert plan.bytes_sent > 0


def test_table_by_hand() -> None:
    """A layer's row has its bytes, error, objective and gap; what no layer reads has a row of its own."""
    plan = _by_hand()
    other = Message("softmax", np.array([[0, 4], [0, 0]]), 8)
    said = str(dataclasses.replace(plan, messages=(*plan.messages, other))).splitlines()
    assert said[1].split() == ["fc", "input", "8", "16", "66.7%", "12.500%", "2.000000", "2.000000", "0.0%"]
    assert said[2].split() == ["(no", "layer)", "softmax", "4", "8"]
    assert said[3].split() == ["total", "12", "24", "50.0%", "of", "direct", "parallel"]


def test_table_ends_with_who_has_nothing_and_with_recovery() -> None:
    """What figures may not be read without; nothing of the kind where there is nothing to say."""
    plan = _by_hand()
    assert str(plan).splitlines()[-1].startswith("total")
    other = _by_hand(layers=(_with(plan, worker=np.array([1, 1])),), settings={"recovered": {"epochs": 3}})
    assert str(other).splitlines()[-2:] == [
        "left out, without a neuron: w0",
        "its weights were trained after pruning (recovery)",
    ]


def test_table_says_shared_bytes_once() -> None:
    """Of two layers that read one activation and are placed together, the second refers to the first."""
    plan, first = _by_hand(), _by_hand().layers[0]
    weights = plan.weights | {"skip.weight": torch.zeros(2, 3)}
    said = str(dataclasses.replace(plan, layers=(first, dataclasses.replace(first, name="skip")), weights=weights))
    assert said.splitlines()[2].split() == ["skip", "input", "shared", "66.7%", "12.500%", "with", "fc"]


def test_table_counts_sums_and_inputs_of_a_layer_in_partial_sums_together() -> None:
    """Its row compares the sums with the inputs that direct execution would send."""
    plan = _by_hand()
    layer = dataclasses.replace(plan.layers[0], partials=True, message_bytes=np.array([4, 4]))
    messages = (
        Message("input", np.zeros((2, 2), np.int64), 16),
        Message("fc (partial sums)", np.array([[0, 4], [0, 0]]), 0),
    )
    said = str(dataclasses.replace(plan, layers=(layer,), messages=messages)).splitlines()
    assert said[1].split()[:5] == ["fc", "input,", "summed", "4", "16"]
    assert len(said) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: {"layers": plan.layers * 2}, "two layers are called 'fc'"),
        (lambda plan: {"groups": plan.groups * 2}, "two groups are called 'fc'"),
        (lambda plan: {"layers": ()}, "at least one layer"),
        (lambda plan: {"groups": ()}, "belongs to group 'fc'"),
        (lambda plan: {"messages": ()}, "message 'input'"),
        (lambda plan: {"weights": {}}, "2 neurons; the weights hold none such"),
        (lambda plan: {"cluster": Cluster.equal(3)}, "needs"),
        (lambda plan: {"layers": (_with(plan, worker=np.array([0, 2])),)}, "worker holds 2; it must be from 0 to 1"),
        (lambda plan: {"layers": (_with(plan, unit=np.array([-1, 0])),)}, "unit holds -1"),
    ],
)
def test_a_plan_whose_parts_do_not_fit_is_none(change: Callable[[PartitionPlan], Any], said: str) -> None:
    """Whoever makes it: names twice, parts missing, numbers out of range."""
    with pytest.raises(InputError, match=said):
        _by_hand(**change(_by_hand()))


def _with(plan: PartitionPlan, **changes: Any) -> LayerPlan:
    return dataclasses.replace(plan.layers[0], **changes)


@pytest.mark.parametrize("key", ["worker", "input_worker", "unit", "message_bytes"])
def test_a_layer_of_wrong_shapes_is_none(key: str) -> None:
    """One number too many in any array is refused by name."""
    with pytest.raises(InputError, match=f"{key} .*layer 'fc'"):
        _with(_by_hand(), **{key: np.zeros(7, dtype=np.int64)})


# As folders


def test_plan_comes_back_as_it_was(planned: PartitionPlan, tmp_path: Path) -> None:
    """Every number of every way to plan, and the module that applying it gives."""
    planned.save(tmp_path / "plan")
    loaded = PartitionPlan.load(tmp_path / "plan")
    assert _flat(loaded) == _flat(planned)
    assert str(loaded) == str(planned)
    assert all(group.result.proof is None for group in loaded.groups)
    with torch.no_grad():
        applied = [apply_plan(_network(), plan)(_images()) for plan in (planned, loaded)]
    assert torch.equal(*applied)


def test_checker_accepts_what_lies_in_the_folder(planned: PartitionPlan, tmp_path: Path) -> None:
    """The command itself, on each layer problem with its certificate."""
    planned.save(tmp_path / "plan")
    for group in planned.groups:
        files = [str(tmp_path / "plan" / "layers" / f"{group.name}{end}") for end in (".npz", ".cert.json")]
        done = subprocess.run(
            [sys.executable, "-m", "solvers.check", *files], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "verified: objective" in done.stdout


def test_proofs_survive_loading_and_saving(tmp_path: Path) -> None:
    """A loaded plan has no proof in memory, yet the copy it is saved as proves the same bound."""
    plan = _by_hand()
    proved_by = plan.groups[0].result.bound_proved_by
    assert proved_by in ("lagrangian", "tree")
    plan.save(tmp_path / "plan")
    PartitionPlan.load(tmp_path / "plan").save(tmp_path / "copy")
    first, second = (Certificate.read(tmp_path / name / "layers" / "fc.cert.json") for name in ("plan", "copy"))
    assert first.claims == second.claims
    assert first.claims.dual_bound == 2
    assert sorted(first.arrays) == sorted(second.arrays) != ["sent", "worker"]


def test_names_of_files_are_all_different_and_stay_in_the_folder() -> None:
    """Names with odd characters, of files' own endings, and longer than a file name can be."""
    names = [
        "block1.conv2", "a/b", "a_b", "a%2Fb", "", ".", "..", "../x", "x", "x.cert", "x.assignment", "x%2Ecert", "é",
        "e\u0301", "\ud800", "con:1", "a b", "long" * 90, "long" * 90 + "er", "/" * 300,
    ]  # fmt: skip
    files = [file for name in names for file in plan_files._files(name).values()]
    files += [file.removesuffix(".json") + ".npz" for file in files if file.endswith(".cert.json")]
    assert len(set(files)) == len(files) == 4 * len(names)
    for name in names:
        assert len(file_stem(name)) < 240
        assert "/" not in file_stem(name)
    assert file_stem("block1.conv2") == "block1.conv2"


def test_layer_with_an_odd_name_comes_back(tmp_path: Path) -> None:
    """A name that would lead out of the folder is a file in it."""
    name, plan = "../fc / é", _by_hand()
    problem = LayerProblem(
        prune_cost=plan.groups[0].problem.prune_cost,
        input_worker=[0, 1, 1],
        send_cost=plan.groups[0].problem.send_cost,
        name=name,
    )
    odd = _by_hand(
        layers=(_with(plan, name=name, group=name),),
        groups=(GroupPlan(problem, solve(problem, "brute-force")),),
        weights={f"{name}.weight": torch.zeros(2, 3)},
    )
    odd.save(tmp_path / "deep" / "plan")
    assert PartitionPlan.load(tmp_path / "deep" / "plan").layers[0].name == name
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_a_plans_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    """Nothing of the plan before stays; an empty folder is taken too."""
    (tmp_path / "plan").mkdir()
    _by_hand().save(tmp_path / "plan")
    (tmp_path / "plan" / "layers" / "old.npz").touch()
    _by_hand(objective=3.0).save(tmp_path / "plan")
    assert PartitionPlan.load(tmp_path / "plan").objective == 3.0
    assert not (tmp_path / "plan" / "layers" / "old.npz").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_what_is_no_plan_is_never_replaced(tmp_path: Path) -> None:
    """A folder of something else, a file, another kind of plan.json, a plan with something of the user's beside it."""
    folders = {
        "other": ("notes.txt", "", "holds something that is no plan"),
        "foreign": ("plan.json", '{"schema": "diet/1"}', "says schema 'diet/1'"),
        "mixed": ("notes.txt", "", "holds 'notes.txt' beside its plan"),
    }
    _by_hand().save(tmp_path / "mixed")
    (tmp_path / "file").write_text("text")
    for name, (file, text, said) in folders.items():
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / file).write_text(text)
        with pytest.raises(InputError, match=said):
            _by_hand().save(tmp_path / name)
        assert (tmp_path / name / file).read_text() == text
    with pytest.raises(InputError, match="is a file"):
        _by_hand().save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize("step", ["certify", "_swap"])
def test_a_crash_leaves_the_plan_before(step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the writing half way, the folder is as it was and nothing lies beside it."""
    _by_hand().save(tmp_path / "plan")

    def crash(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(plan_files, step, crash)
    with pytest.raises(KeyboardInterrupt):
        _by_hand(objective=3.0).save(tmp_path / "plan")
    assert PartitionPlan.load(tmp_path / "plan").objective == 2.0
    assert [path.name for path in tmp_path.iterdir()] == ["plan"]


def test_a_failed_rename_puts_the_plan_before_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old plan is out of the way already when the new one cannot take its place."""
    _by_hand().save(tmp_path / "plan")
    replace = plan_files.os.replace

    def second_fails(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(plan_files.os, "replace", second_fails)
    with pytest.raises(InputError, match="Input/output error"):
        _by_hand(objective=3.0).save(tmp_path / "plan")
    assert PartitionPlan.load(tmp_path / "plan").objective == 2.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A plan's folder, to be damaged."""
    _by_hand().save(tmp_path / "plan")
    return tmp_path / "plan"


_FILES = (
    "plan.json", "weights.safetensors", "masks.safetensors", "layers/fc.npz", "layers/fc.assignment.npz",
    "layers/fc.cert.json", "layers/fc.cert.npz",
)  # fmt: skip


def test_every_file_of_the_folder_is_known(folder: Path) -> None:
    """The tests below damage them all."""
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == sorted(_FILES)


@pytest.mark.parametrize("file", _FILES)
def test_missing_truncated_and_foreign_files_are_named(file: str, folder: Path) -> None:
    """One line with the file's name, whichever it is."""
    path = folder / file
    whole = path.read_bytes()
    for damaged in (None, b"", whole[: len(whole) // 2], b"\x80\x04K\x01."):  # the last is a pickle
        path.unlink()
        if damaged is not None:
            path.write_bytes(damaged)
        with pytest.raises(InputError, match=str(path).replace(".", r"\.")):
            PartitionPlan.load(folder)
        path.write_bytes(whole)
    PartitionPlan.load(folder)


def _edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads((folder / "plan.json").read_text())
    change(content)
    (folder / "plan.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: plan.update(schema="plan/2"), "says schema 'plan/2', needs 'plan/1'"),
        (lambda plan: plan.update(objective=float("nan")), "it holds NaN"),
        (lambda plan: plan.update(objective=10**400), "OverflowError"),
        (lambda plan: plan["layers"][0].update(worker=[0, 2]), "worker holds 2"),
        (lambda plan: plan["layers"][0].update(worker=[0, 1, 1]), "worker has shape"),
        (lambda plan: plan["layers"][0].update(worker=[0, 0.5]), "give integers"),
        (lambda plan: plan["layers"][0].update(name="fd"), "no mask"),
        (lambda plan: plan["layers"][0].update(reads="relu"), "message 'relu'; one is missing"),
        (lambda plan: plan["layers"].append(plan["layers"][0]), "two layers are called 'fc'"),
        (lambda plan: plan["groups"][0].update(problem="../fc.npz"), "said to be '../fc.npz'"),
        (lambda plan: plan["groups"][0].update(problem_digest="0"), "do not belong together"),
        (lambda plan: plan["messages"][0].update(bytes_by_link=[[0]]), "shape"),
        (lambda plan: plan["cluster"]["worker"].pop(), "is no worker"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(change: Callable[[Any], object], said: str, folder: Path) -> None:
    """What plan.json says is held against its own shapes and the files beside it."""
    _edited(folder, change)
    with pytest.raises(InputError, match=said):
        PartitionPlan.load(folder)


def _places(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value in JSON, but for what only people read."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        if key not in ("versions", "hardware", "commit", "settings"):
            yield (*path, key)
            yield from _places(value, (*path, key))


def test_nothing_in_the_json_ends_in_a_traceback(folder: Path) -> None:
    """Each value in turn left out or replaced by each other kind: InputError, or another plan that makes sense."""
    text = (folder / "plan.json").read_text()
    refused = 0
    for path in _places(json.loads(text)):
        for value in (..., None, -1, "x", []):
            content = json.loads(text)
            inner = content
            for key in path[:-1]:
                inner = inner[key]
            if value is ...:
                del inner[path[-1]]
            else:
                inner[path[-1]] = value
            (folder / "plan.json").write_text(json.dumps(content))
            try:
                PartitionPlan.load(folder)
            except InputError:
                refused += 1
    assert refused > 200


def test_files_of_another_plan_are_refused(folder: Path, tmp_path: Path) -> None:
    """Each file of a plan with other numbers, in the place of this one's."""
    plan, worker = _by_hand(), np.array([1, 0])
    problem = LayerProblem(
        prune_cost=np.ones((2, 3), int), input_worker=[0, 1, 1], send_cost=np.zeros((3, 2), int), name="fc"
    )
    other = _by_hand(
        layers=(_with(plan, worker=worker, kept=~plan.layers[0].kept),),
        groups=(GroupPlan(problem, solve(problem, "brute-force")),),
        weights={key: value + 1 for key, value in plan.weights.items()},
    )
    other.save(tmp_path / "other")
    for file in _FILES[1:]:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes((tmp_path / "other" / file).read_bytes())
        with pytest.raises(InputError, match=r"SHA-256 differs|do not belong together|another file"):
            PartitionPlan.load(folder)
        (folder / file).write_bytes(whole)


def test_a_certificate_that_claims_another_objective_is_refused(folder: Path) -> None:
    """Its digest is right, its claim is not."""
    path = folder / "layers" / "fc.cert.json"
    path.write_text(path.read_text().replace('"objective": 2', '"objective": 3'))
    with pytest.raises(InputError, match="claims 3, the assignment costs 2"):
        PartitionPlan.load(folder)


def test_weights_that_are_not_numbers_are_refused(folder: Path) -> None:
    """Also where the digest has been made to fit."""
    weights = {key: value.fill_(float("nan")) for key, value in _model().state_dict().items()}
    safetensors.torch.save_file(weights, folder / "weights.safetensors")
    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    _edited(folder, lambda plan: plan["sha256"].update({"weights.safetensors": digest}))
    with pytest.raises(InputError, match=r"weights\.safetensors: 'fc\.\w+' holds NaN"):
        PartitionPlan.load(folder)


# In words and pictures


def test_layer_explained_by_hand() -> None:
    """What w0 receives, and that it does without one of the two inputs of w1."""
    assert explain(_by_hand(), "fc").splitlines() == [
        "fc: 2 neurons, 3 channels of input; 66.7% of the kernels kept, relative error 12.500%",
        "w0: 1 neuron, 1 channel of its own",
        "  receives channels: 1 from w1 (8 bytes)",
        "  does without 1 of 2 remote channels; drops 33.3% of its kernels",
        "w1: 1 neuron, 2 channels of its own",
        "  does without 1 of 1 remote channel; drops 33.3% of its kernels",
    ]


def test_neuron_explained_by_hand() -> None:
    """On w1 neuron 0 would need input 0 instead of 2, and pay 1 for its place; w1 is full."""
    said = explain(_by_hand(), "fc", 0).splitlines()
    assert said[0] == "fc, neuron 0, sits on w0"
    assert said[-2].split() == ["w0", "-", "-", "-", "-", "is", "here"]
    assert said[-1].split(maxsplit=5) == [
        "w1", "+1", "+0", "+0", "+1", "no: worker w1, neurons: 1 too many; worker w0, neurons: 1 too few",
    ]  # fmt: skip
    assert explain(_by_hand(), "fc", 1).splitlines()[-2].split()[:5] == ["w0", "+2", "+0", "+2", "+0"]


def test_unit_of_a_neuron_is_named() -> None:
    """Neurons of other layers that have to sit with it."""
    plan, first = _by_hand(), _by_hand().layers[0]
    skip = dataclasses.replace(first, name="skip", unit=np.array([1, 0]), worker=np.array([1, 0]))
    plan = dataclasses.replace(plan, layers=(first, skip), weights=plan.weights | {"skip.weight": torch.zeros(2, 3)})
    assert "skip 1" in explain(plan, "fc", 0).splitlines()[1]
    assert explain(plan, "fc").endswith("input is also read by skip; what several need crosses once")


@pytest.mark.parametrize(
    ("layer", "neuron", "said"),
    [
        ("fcc", None, "no layer 'fcc'; did you mean 'fc'?"),
        ("fc", 2, "no neuron 2; give one from 0 to 1"),
        ("fc", -1, "no neuron -1"),
    ],
)
def test_what_there_is_not_cannot_be_explained(layer: str, neuron: int | None, said: str) -> None:
    """The nearest names are said."""
    with pytest.raises(InputError, match=said.replace("?", r"\?")):
        explain(_by_hand(), layer, neuron)


def test_every_neuron_of_real_plans_can_be_explained(planned: PartitionPlan) -> None:
    """Every layer, and a neuron of each: a row for each worker."""
    for layer in planned.layers:
        assert layer.name in explain(planned, layer.name)
        assert len(explain(planned, layer.name, 0).splitlines()) >= 3 + planned.cluster.num_workers


def test_difference_by_hand() -> None:
    """Both neurons swap workers, input 2 is sent no more; what is the same is not mentioned."""
    plan = _by_hand()
    other = _by_hand(
        layers=(_with(plan, worker=np.array([1, 0]), kept=np.eye(2, 3, dtype=bool), relative_error=0.25),),
        messages=(Message("input", np.zeros((2, 2), np.int64), 16),),
        objective=3.0,
    )
    assert diff(plan, other).splitlines() == [
        "fc: 2 neurons of 2 moved, 1 from w0 to w1, 1 from w1 to w0, kept 66.7% -> 33.3%, "
        "relative error 12.500% -> 25.000%",
        "bytes of input: 8 -> 0 (-8)",
        "bytes: 8 -> 0 (-8)",
        "objective: 2 -> 3",
    ]
    assert diff(plan, plan).splitlines() == ["bytes: 8, as before", "objective: 2 -> 2"]


def test_plans_of_different_models_can_be_compared() -> None:
    """It says so, and names the layers that only one has."""
    plan = _by_hand()
    other = _by_hand(
        model_digest="0", layers=(_with(plan, name="fd"),), weights={"fd.weight": torch.zeros(2, 3)},
        settings={**plan.settings, "per_byte": 0.25},
    )  # fmt: skip
    said = diff(plan, other).splitlines()
    assert said[:4] == [
        "the plans are for different models, or other weights of one",
        "per_byte: 0.5 -> 0.25",
        "fc: in the first plan only",
        "fd: in the second plan only",
    ]


def test_picture_of_a_layer_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Rows and columns by worker, what is dropped left out; it is an SVG."""
    drawn: list[Any] = []
    save = pictures._save
    monkeypatch.setattr(pictures, "_save", lambda figure, path: (drawn.append(figure), save(figure, path)))
    plan, size = _by_hand(), np.arange(1.0, 7.0).reshape(2, 3)
    layer = _with(plan, worker=np.array([1, 0]), input_worker=np.array([1, 0, 0]))
    pictures.draw_layer(plan, layer, size, 10 * size, tmp_path / "fc.svg")
    before, after = (axis.images[0].get_array() for axis in drawn[0].axes[:2])
    assert before.tolist() == [[5, 6, 4], [2, 3, 1]]
    np.testing.assert_array_equal(np.ma.filled(after, -1), [[50, 60, -1], [-1, 30, 10]])
    assert "<svg" in (tmp_path / "fc.svg").read_text()


def test_pictures_go_into_the_plans_folder(folder: Path) -> None:
    """One of the traffic and one of each layer; the plan can be read and replaced as before."""
    pictures.draw_plan(_by_hand(), _model(), folder)
    assert sorted(path.name for path in (folder / "pictures").rglob("*.svg")) == ["fc.svg", "traffic.svg"]
    PartitionPlan.load(folder).save(folder)
    assert not (folder / "pictures").exists()
