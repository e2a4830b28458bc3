"""Do the tests notice a module that is broken?

Some mutants here; all of them, and the notebooks too, in `make mutants`.
"""

import pytest
from mutants import MUTANTS, broken, passes_its_test


@pytest.mark.parametrize("mutant", [m for m in MUTANTS if m.quick], ids=lambda m: m.name)
def test_a_broken_module_is_noticed(mutant, tmp_path):
    assert not passes_its_test(broken(mutant, tmp_path), mutant)


def test_the_copy_alone_is_no_reason_to_fail(tmp_path):
    quickest = [mutant for mutant in MUTANTS if mutant.quick][-1]
    assert passes_its_test(broken(None, tmp_path), quickest)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_every_mutant_still_fits_the_code(mutant):
    assert mutant.wrong in mutant.broken_code()
