"""A key follows the code that a result is made by: what it imports, and nothing else."""

import json
from pathlib import Path

import pytest

from rctpl_utils import code_hash
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.files import read_json
from rctpl_utils.prompts import handwritten, training

TOY = read_json(Path(__file__).parent / "cases" / "toy_package.json")  # with a circle of imports
START = TOY["start.py"]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A toy package in the place of ours; what is written to it is read at once."""

    def edit(name, text):
        path = tmp_path / "rctpl_utils" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        code_hash._scan.cache_clear()

    monkeypatch.setattr(code_hash, "ROOT", tmp_path)
    for name, text in TOY.items():
        edit(name, text)
    yield edit
    code_hash._scan.cache_clear()


def collected(name="rctpl_utils.start"):
    """The code of a module; the toy package has this one in the place of one of ours."""
    found = {}
    code_hash._collect(name, code_hash._file(name), found)
    return found


def test_what_is_followed_and_what_is_not(source):
    modules = ("direct", "group", "group.late", "relative", "start")
    expected = [*(f"rctpl_utils.{name}" for name in modules), "rctpl_utils/data/texts.json"]
    assert sorted(collected()) == expected


@pytest.mark.parametrize(
    ("name", "text", "counts"),
    [
        *((name, TOY[name] + "y = 2\n", True) for name in TOY if name in (
            "direct.py", "relative.py", "group/__init__.py", "group/late.py")),
        *((name, "changed = 1\n", False) for name in ("profiles.py", "typed.py", "figure.py")),
        ("data/other.json", "[]", False),
        ("data/texts.json", "[]", True),
        ("start.py", START.replace('"Says something."', '"Says é,\n\nat # length."'), False),
        ("start.py", START.replace('Do it."""', 'Done."""  # é'), False),
        ("start.py", START.replace("  # here, to start fast", ""), False),
        ("start.py", START.replace("def work", "# why\n\n\ndef work"), False),
        ("start.py", START.replace("value, ", "value + 1, "), True),
    ],
)  # fmt: skip
def test_an_edit_counts_where_a_result_may_change(source, name, text, counts):
    before = collected()
    source(name, text)
    assert (collected() != before) == counts


REMAINS = {
    'def f(): "doc"\n': "def f():",
    'x = "# no comment"  # one\n': 'x = "# no comment"',
    'x = """kept\n\n# too"""\n': 'x = """kept\n# too"""',
}


@pytest.mark.parametrize("text", REMAINS)
def test_what_remains_of_a_source(text):
    assert code_hash._bare(text, code_hash.ast.parse(text)) == REMAINS[text]


def test_parts_count_as_a_set_and_functions_as_their_modules():
    assert code_of(training, handwritten) == code_of(handwritten, training)
    assert code_of(training.learn_prompts) == code_of(training) != code_of(handwritten)


def test_training_follows_its_loss_and_no_figure(copied):
    """Nor the films: what `training` imports reads no image, as its own test promises."""
    before = code_of(training)
    copied("plots.py", "import", "import  ")
    copied("scoring.py", '"""Similarities', '"""Edited. Similarities')
    assert code_of(training) == before
    copied("scoring.py", "relu", "relu6")
    assert code_of(training) != before
    found = collected("rctpl_utils.prompts.training")
    assert found and not [name for name in found if ".datasets" in name or "image" in name]


def test_a_result_is_made_once_for_a_key_and_again_if_it_was_stopped(tmp_path):
    record, file, calls = tmp_path / "r.json", tmp_path / "weights", []

    def make():
        calls.append(1)
        file.write_text("w")
        return {"rate": len(calls)}

    assert kept(record, [file], "a", make) == {"rate": 1, "key": "a"}
    assert kept(record, [file], "a", make) == {"rate": 1, "key": "a"}
    assert kept(record, [file], "b", make) == {"rate": 2, "key": "b"}
    file.unlink()
    assert kept(record, [file], "b", make)["rate"] == 3
    record.unlink()
    assert kept(record, [file], "b", make)["rate"] == 4

    def full():
        raise OSError("disk full")

    kept(record, [file], "a", lambda: {"text": file.write_text("old")})
    with pytest.raises(OSError, match="full"):
        kept(record, [file], "b", full)
    assert not record.exists()
    kept(record, [file], "a", lambda: {"text": "anew"})
    assert json.loads(record.read_text())["text"] == "anew"
