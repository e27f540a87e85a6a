"""The scripts that judge: each has to be able to say no."""
import shutil
import subprocess

import pytest

from servers import ROOT


@pytest.fixture
def tree(tmp_path):
    """A tree with our scripts and one lawful source file."""
    (tmp_path / "scripts").mkdir()
    for name in ("lib.sh", "check-format", "check-layers", "check-twins", "run-unit-tests", "run-fuzz"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    put(tmp_path, "common/data/config_yaml.c", '#include "common/base/str.h"\n#include <yaml.h>\n')
    return tmp_path


def put(tree, path, text, mode=0o644):
    file = tree / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(mode)
    return file


def run(tree, *words):
    done = subprocess.run([tree / "scripts" / words[0], *words[1:]], capture_output=True, text=True, cwd=tree)
    return done.returncode, done.stdout + done.stderr


def test_lawful_layers_pass(tree):
    status, said = run(tree, "check-layers")
    assert status == 0 and said.splitlines()[-1] == "4 passed, 0 failed, 0 skipped"


@pytest.mark.parametrize("file, line, words", [
    ("common/base/a.c", '#include "common/io/loop.h"', "base lies under io"),
    ("common/store/a.c", '  #  include "common/svc/svc.h"', "store lies under svc"),
    ("common/new/a.c", '#include "common/base/str.h"', "no place in the order"),
    ("common/io/a.c", '#include "services/gateway/req.h"', "common knows no service"),
    ("services/gateway/a.c", '#include "services/selector/policy.h"', "messages, not by calls"),
    ("common/store/a.c", "#include <sqlite3.h>", "only its wrapper may"),
    ("services/gateway/a.c", "#include <event2/event.h>", "only its wrapper may"),
    ("common/io/a.h", "#include <nng/nng.h>", "only its wrapper may"),
    ("services/gateway/a.c", '#include "tests/fakes/x.h"', "does not depend on tests")])
def test_each_rule_of_the_layers_can_fail(tree, file, line, words):
    put(tree, file, line + "\n")
    status, said = run(tree, "check-layers")
    assert status == 1 and f"{file}:1:" in said and words in said
    assert "3 passed, 1 failed, 0 skipped" in said


def test_a_tree_without_sources_is_no_pass(tree):
    shutil.rmtree(tree / "common")
    assert run(tree, "check-layers")[0] == 1


GOOD = "/* a.c - sums. */\nint f(int a)\n{\n\tif (a > 1)\n\t\treturn a; /* no // in it */\n\treturn 0;\n}\n"


@pytest.mark.parametrize("path, text, words", [
    ("common/base/a.c", GOOD, ""),
    ("common/base/a.c", GOOD.replace("return 0;", "return 0; "), "6: blanks at the end"),
    ("common/base/a.c", GOOD.rstrip("\n"), "7: the last line has no end"),
    ("common/base/a.c", GOOD + "\n", "an empty line at the end"),
    ("common/base/a.c", GOOD.replace("\n", "\r\n"), "carriage return"),
    ("common/base/a.c", GOOD.replace("int f", "\n\nint f"), "two empty lines"),
    ("common/base/a.c", GOOD.replace("\t\treturn", " " * 16 + "return"), "5: blanks where tabs belong"),
    ("common/base/a.c", GOOD.replace("\n{", " {"), "2: a function's brace"),
    ("common/base/a.c", GOOD.replace("(a > 1)", "(a > 1)\n\t{"), "5: this brace belongs"),
    ("common/base/a.c", GOOD.replace("if (", "if("), "4: no blank between"),
    ("common/base/a.c", GOOD.replace("int a", "char* a"), "2: the star"),
    ("common/base/a.c", GOOD.replace("/* no // in it */", "// none"), "5: a // comment"),
    ("common/base/a.c", GOOD.replace("a > 1", " + ".join(["a"] * 50)), "4: 2"),
    ("common/base/a.c", GOOD.replace("a > 1", '"' + "x" * 200 + '"'), ""),
    ("common/base/a.c", GOOD[GOOD.index("int"):], "1: begins with '/* a.c - "),
    ("common/base/a.h", "/* a.h - a. */\n#ifndef CORRAL_BASE_B_H\n#define CORRAL_BASE_B_H\n#endif\n", "1: needs a guard that ends in A_H"),
    ("common/base/a.h", "/* a.h - a. */\nint a;\n", "1: needs a guard"),
    ("tools/a.py", '"""a"""\nif a:\n\tb()\n', "3: a tab"),
    ("tools/a.py", "b()\n", "1: begins with a docstring"),
])
def test_each_rule_of_the_format_can_fail(tree, path, text, words):
    put(tree, "common/data/config_yaml.c", "/* config_yaml.c - settings. */\n")
    (tree / path).parent.mkdir(parents=True, exist_ok=True)
    (tree / path).write_bytes(text.encode())
    status, said = run(tree, "check-format")
    assert status == bool(words), said
    assert f"{path}:{words}" in said if words[:1].isdigit() else words in said


def test_what_is_only_blanks_is_mended(tree):
    put(tree, "common/data/config_yaml.c", "/* config_yaml.c - settings. */\n")
    file = put(tree, "common/base/a.c", GOOD.replace("return 0;", "return 0; \t") + "\n\n")
    assert run(tree, "check-format", "--fix")[0] == 0
    assert file.read_text() == GOOD


TWIN = "int %s(int a)\n{\n%s\treturn a;\n}\n"


@pytest.mark.parametrize("lines, other, broken", [
    (12, {}, True), (12, {"apart": "int between;\n"}, True), (4, {}, False), (12, {"a": "b"}, False), (12, {"path": "common/base/b_test.c"}, False),
])
def test_twins_are_found_from_a_length_on(tree, lines, other, broken):
    body = "".join(f"\ta += {i} * a;\n" for i in range(lines))
    put(tree, "common/base/a.c", TWIN % ("one", body))
    put(tree, other.get("path", "services/x/b.c"), other.get("apart", "") + TWIN % ("two", body.replace("a", other.get("a", "a")) + "/* not counted */"))
    status, said = run(tree, "check-twins")
    assert status == broken, said
    assert ("common/base/a.c:1: " in said and "stand in services/x/b.c:" in said) == broken


def test_a_tree_without_code_has_no_twins_to_pass_with(tree):
    (tree / "common/data/config_yaml.c").unlink()
    assert run(tree, "check-twins")[0] == 1


@pytest.mark.parametrize("said, status, tally", [
    ("[       OK ] a\n[       OK ] b", 0, "2 passed, 0 failed, 0 skipped"),
    ("[       OK ] a\n[  SKIPPED ] b\n[  SKIPPED ] b", 0, "1 passed, 0 failed, 1 skipped"),
    ("[       OK ] a\n[  FAILED  ] b\n[  FAILED  ] b", 1, "1 passed, 1 failed, 0 skipped"),
    ("[       OK ] a", 134, "1 passed, 1 failed, 0 skipped"), ("", 0, "0 passed, 1 failed, 0 skipped")])
def test_unit_tests_are_counted(tree, said, status, tally):
    program = put(tree, "program", f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {status}\n", 0o755)
    got, text = run(tree, "run-unit-tests", program)
    assert text.splitlines()[-1] == tally
    assert (got == 0) == ("0 failed" in tally)


def test_fuzz_targets_are_counted(tree):
    for name, status in (("good", 0), ("bad", 77), ("bare", 0)):
        put(tree, f"fuzz/{name}", f"#!/bin/sh\necho it was {name}\nexit {status}\n", 0o755)
    for name in ("good", "bad"):
        put(tree, f"tests/fuzz/corpus/{name}/seed", "x")
    status, said = run(tree, "run-fuzz", "replay", "fuzz/good", "fuzz/bad", "fuzz/bare")
    assert status == 1 and said.splitlines()[-1] == "1 passed, 2 failed, 0 skipped"
    assert "FAIL fuzz bad (exit 77)" in said and "it was bad" in said and "no seed in tests/fuzz/corpus/bare" in said
    assert run(tree, "run-fuzz", "sometimes")[0] == 1


def test_setup_needs_no_network_when_all_is_there():
    alone = ["unshare", "-rn"]
    if subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a network namespace")
    done = subprocess.run([*alone, ROOT / "scripts/setup", "build", "run", "test"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_setup_knows_its_purposes():
    done = subprocess.run([ROOT / "scripts/setup", "dance"], capture_output=True, text=True)
    assert done.returncode == 1 and "unknown purpose 'dance'" in done.stderr
