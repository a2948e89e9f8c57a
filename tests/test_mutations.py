"""Every mutation must fit the file that it changes, or it would be out of date unseen."""

import json

import pytest

from tests.mutations import MUTATIONS, ROOT, is_of, is_test


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_mutations_change_the_code_that_is_there(mutation):
    path = ROOT / "lexirobust" / mutation.file
    source = path.read_text(encoding="utf-8")
    assert source.count(mutation.old) == 1
    mutated = mutation.apply(source)
    assert mutated != source
    compile(mutated, str(path), "exec")
    missing = [test for test in mutation.tests if not (ROOT / test).exists()]
    assert mutation.tests
    assert not missing


def test_mutations_have_names_of_their_own():
    names = [mutation.name for mutation in MUTATIONS]
    assert sorted(set(names)) == sorted(names)


def test_results_are_of_the_mutations_as_they_are_and_a_test_catches_each():
    path = ROOT / "docs" / "results" / "mutations.json"
    results = json.loads(path.read_text(encoding="utf-8"))["mutations"]
    assert {*results} == {mutation.name for mutation in MUTATIONS}
    assert [m.name for m in MUTATIONS if not is_of(results[m.name], m)] == []
    assert [name for name, result in results.items() if not is_test(result["caught_by"])] == []
