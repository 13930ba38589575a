"""Slow imports, without the collector."""

import gc

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
