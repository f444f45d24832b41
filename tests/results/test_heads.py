import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhlens.results.heads import Head, check_heads, heads_of_group, kv_group

heads = st.builds(Head, st.integers(0, 200), st.integers(0, 200))


@given(heads)
def test_a_head_prints_as_its_name_and_parses_back(head):
    assert str(head) == f"L{head.layer}H{head.head}"
    assert Head.parse(str(head)) == Head.parse(f"{head.layer}-{head.head}") == head
    layer, number = head
    assert (layer, number) == (head.layer, head.head)


@pytest.mark.parametrize("text", ["", "L1", "1-2-3", "LxHy", "L-1H2", "1.5-2", "²-3"])
def test_no_head_is_an_error(text):
    with pytest.raises(ValueError, match="names no head"):
        Head.parse(text)


def test_heads_that_do_not_exist_are_named():
    assert check_heads([(1, 2)], 2, 4) == [Head(1, 2)]
    with pytest.raises(ValueError, match=r"L2H0 is not a head .* 2 layers of 4 heads"):
        check_heads([(0, 0), (2, 0)], 2, 4)
    with pytest.raises(ValueError, match="twice"):
        check_heads([(0, 0), (0, 0)], 2, 4)


@given(heads, st.integers(1, 8))
def test_a_group_holds_the_heads_that_name_it(h, size):
    members = heads_of_group(kv_group(h, size), size)
    assert h in members
    assert len(members) == size
    assert {kv_group(m, size) for m in members} == {kv_group(h, size)}


@pytest.mark.parametrize("h", [(0, 4), (2, 0), (-1, 0), (0, -1)])
def test_heads_just_beyond_a_model_are_not_of_it(h):
    assert check_heads([(0, 0), (1, 3)], 2, 4) == [Head(0, 0), Head(1, 3)]
    with pytest.raises(ValueError, match=r"is not a head of this model, which has 2 layers of 4 heads$"):
        check_heads([h], 2, 4)
