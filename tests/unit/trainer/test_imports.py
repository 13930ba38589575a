"""Slow imports: without the collector, and ahead of their need."""

import gc
import importlib
import sys
from pathlib import Path

import pytest

from m3_trainer import imports


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_rests_while_a_block_imports_and_is_then_as_it_was(was_on: bool) -> None:
    (gc.enable if was_on else gc.disable)()
    try:
        with imports.uncollected("m3_test_not_there"):
            assert not gc.isenabled()
        assert gc.isenabled() is was_on
        assert gc.get_freeze_count() > 0
    finally:
        gc.enable()
        gc.unfreeze()


def test_what_was_imported_before_freezes_nothing() -> None:
    frozen = gc.get_freeze_count()
    with imports.uncollected("pytest"):
        assert gc.isenabled()
    assert gc.get_freeze_count() == frozen


def test_what_cannot_be_imported_ahead_is_told_of_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "m3_test_broken.py").write_text("import m3_test_not_there")
    (tmp_path / "m3_test_whole.py").write_text("")
    imports.ahead("m3_test_broken", "m3_test_whole").join()
    assert sys.modules.pop("m3_test_whole")
    assert capfd.readouterr() == ("", "")
    with pytest.raises(ModuleNotFoundError, match="m3_test_not_there"):
        importlib.import_module("m3_test_broken")
