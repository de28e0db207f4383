"""A key follows the code that a result is made by: what it imports, and nothing else."""

import json

import pytest

from rctpl_utils import code_hash
from rctpl_utils.code_hash import code_of, kept
from rctpl_utils.prompts import handwritten, training

TOY = {
    "__init__.py": '"""A package."""\n',
    "start.py": (
        '"""Says something."""\n'
        "from typing import TYPE_CHECKING\n"
        "from rctpl_utils import direct\n"
        "from rctpl_utils.group import shared\n"
        "from rctpl_utils.profiles import SEEDS\n"
        "if TYPE_CHECKING:\n"
        "    from rctpl_utils.typed import T\n"
        "def work():\n"
        '    """Do it."""\n'
        "    from rctpl_utils.group.late import value  # here, to start fast\n"
        '    return value, "texts.json"\n'
    ),
    "direct.py": "from .relative import x\n",
    "relative.py": "x = 1\n",
    "group/__init__.py": "shared = 1\n",
    "group/late.py": "import rctpl_utils.start\nvalue = 1\n",  # a circle
    "profiles.py": "SEEDS = 1\n",
    "typed.py": "T = int\n",
    "figure.py": "from rctpl_utils import start\n",
    "data/texts.json": "{}",
    "data/other.json": "{}",
}


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


def start():
    """The code of a module that the toy package has in the place of one of ours."""
    found = {}
    code_hash._collect("rctpl_utils.start", code_hash._file("rctpl_utils.start"), found)
    return found


def test_what_is_followed_and_what_is_not(source):
    assert sorted(start()) == [
        "rctpl_utils.direct",
        "rctpl_utils.group",
        "rctpl_utils.group.late",
        "rctpl_utils.relative",
        "rctpl_utils.start",
        "rctpl_utils/data/texts.json",
    ]


@pytest.mark.parametrize("name", ["direct.py", "relative.py", "group/__init__.py", "group/late.py"])
def test_an_edit_of_what_is_imported_counts(source, name):
    before = start()
    source(name, TOY[name] + "y = 2\n")
    assert start() != before


def test_an_edit_of_named_data_counts(source):
    before = start()
    source("data/other.json", "[]")
    assert start() == before
    source("data/texts.json", "[]")
    assert start() != before


@pytest.mark.parametrize("name", ["profiles.py", "typed.py", "figure.py"])
def test_an_edit_of_other_modules_does_not_count(source, name):
    before = start()
    source(name, "changed = 1\n")
    assert start() == before


def test_comments_docstrings_and_empty_lines_do_not_count(source):
    before = start()
    text = TOY["start.py"].replace('"""Says something."""', '"""Says é,\n\nat # length."""')
    text = text.replace('"""Do it."""', '"""Done."""  # é').replace("  # here, to start fast", "")
    source("start.py", text.replace("def work", "# why\n\n\ndef work"))
    assert start() == before
    source("start.py", text.replace("value, ", "value + 1, "))
    assert start() != before


@pytest.mark.parametrize(
    ("source_text", "bare"),
    [
        ('def f(): "doc"\n', "def f():"),
        ('x = "# no comment"  # one\n', 'x = "# no comment"'),
        ('x = """kept\n\n# too"""\n', 'x = """kept\n# too"""'),
    ],
)
def test_what_remains_of_a_source(source_text, bare):
    assert code_hash._bare(source_text, code_hash.ast.parse(source_text)) == bare


def test_parts_count_as_a_set_and_functions_as_their_modules():
    parts = training, handwritten
    assert code_of(*parts) == code_of(*reversed(parts))
    assert code_of(training.learn_prompts) == code_of(training) != code_of(handwritten)


def test_training_follows_its_loss_and_no_figure(copied):
    before = code_of(training)
    copied("plots.py", "import", "import  ")
    copied("scoring.py", '"""Similarities', '"""Edited. Similarities')
    assert code_of(training) == before
    copied("scoring.py", "relu", "relu6")
    assert code_of(training) != before


def test_no_kept_result_of_training_sees_the_films(copied):
    """The same promise as `training`'s own: what it imports reads no image."""
    found = {}
    code_hash._collect(
        "rctpl_utils.prompts.training", code_hash._file("rctpl_utils.prompts.training"), found
    )
    assert not [name for name in found if ".datasets" in name or "image" in name]


def test_a_result_is_made_once_for_a_key(tmp_path):
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


def test_a_result_that_was_stopped_is_made_again(tmp_path):
    record, file = tmp_path / "r.json", tmp_path / "weights"

    def full():
        raise OSError("disk full")

    kept(record, [file], "a", lambda: {"text": file.write_text("old")})
    with pytest.raises(OSError, match="full"):
        kept(record, [file], "b", full)
    assert not record.exists()
    kept(record, [file], "a", lambda: {"text": "anew"})
    assert json.loads(record.read_text())["text"] == "anew"
