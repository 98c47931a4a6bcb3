"""Recipes: one encoding each, and nothing but a recipe decodes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciuic.objects.encoding import EncodingError, Tagged, encode
from ciuic.objects.ids import Kind, digest, object_id
from ciuic.objects.recipe import CASTS, MOST_BASES, NUMBERS, Recipe, decode_recipe, encode_recipe

ids = st.binary(min_size=32, max_size=32).filter(any)
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
doubles = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def recipes(draw):
    rule = draw(st.sampled_from(sorted(NUMBERS)))
    if rule == "cast":
        between = draw(st.sampled_from(sorted(CASTS)))
        skip = draw(st.integers(0, (1 << 20) - 1)) * CASTS[between]
        bases = draw(st.lists(ids, min_size=1, max_size=MOST_BASES))
        return Recipe(rule, tuple(bases), {"from": between[0], "to": between[1], "skip": skip})
    numbers = {name: draw(doubles if name == "gain" else singles) for name in NUMBERS[rule]}
    return Recipe(rule, tuple(draw(st.lists(ids, min_size=3, max_size=3))), numbers)


WEIGHT = Recipe(
    "adamw.weight", (b"w" * 32, b"m" * 32, b"v" * 32), {"decay": 0.5, "rate": -0.25, "root": 0.75, "eps": 0.0}
)
CAST = Recipe("cast", (b"w" * 32,), {"from": "float32", "to": "bfloat16", "skip": 0})


@given(recipes())
def test_what_is_encoded_is_decoded(recipe):
    """Every recipe comes back, and its encoding is the only one that gives it."""
    data = encode_recipe(recipe)
    assert decode_recipe(data) == recipe
    assert encode_recipe(decode_recipe(data)) == data


@given(recipes(), st.data())
def test_damage_is_an_encoding_error_or_another_recipe(recipe, data):
    """A byte changed, cut off or added: never another exception, and never a second encoding of anything."""
    good = encode_recipe(recipe)
    place = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.integers(1, 255))
    for bad in (good[:place], good + good[place:], good[:place] + bytes([good[place] ^ change]) + good[place + 1 :]):
        try:
            found = decode_recipe(bad)
        except EncodingError:
            continue
        assert encode_recipe(found) == bad


@given(st.binary(max_size=200))
def test_junk_is_an_encoding_error(data):
    """Whatever the bytes."""
    with pytest.raises(EncodingError):
        decode_recipe(data)


def as_map(recipe, **changed):
    return {"rule": recipe.rule, "bases": b"".join(recipe.bases), "numbers": recipe.numbers, **changed}


@pytest.mark.parametrize(
    "value",
    [
        [], None, {}, as_map(CAST, more=1), {"rule": "cast"}, as_map(CAST, rule=None), as_map(CAST, rule="fma"),
        as_map(CAST, bases=b""), as_map(CAST, bases=b"x" * 31), as_map(CAST, bases=b"x" * 33), as_map(CAST, bases=[]),
        as_map(CAST, bases=b"x" * 32 * 65), as_map(CAST, bases=bytes(32)), as_map(WEIGHT, bases=b"x" * 64),
        as_map(WEIGHT, bases=b"x" * 128), as_map(CAST, numbers=[]), as_map(CAST, numbers={}),
        as_map(CAST, numbers={**CAST.numbers, "skip": -4}), as_map(CAST, numbers={**CAST.numbers, "skip": 2}),
        as_map(CAST, numbers={**CAST.numbers, "skip": 1 << 26}), as_map(CAST, numbers={**CAST.numbers, "skip": 4.0}),
        as_map(CAST, numbers={**CAST.numbers, "skip": False}), as_map(CAST, numbers={**CAST.numbers, "to": "float64"}),
        as_map(CAST, numbers={**CAST.numbers, "from": []}), as_map(CAST, numbers={**CAST.numbers, "eps": 0.0}),
        as_map(WEIGHT, numbers={**WEIGHT.numbers, "eps": 0}), as_map(WEIGHT, numbers={**WEIGHT.numbers, "eps": 0.1}),
        as_map(WEIGHT, numbers={**WEIGHT.numbers, "eps": math.nan}),
        as_map(WEIGHT, numbers={**WEIGHT.numbers, "rate": -math.inf}),
        as_map(WEIGHT, numbers={**WEIGHT.numbers, "rate": 1e300}),
        as_map(WEIGHT, numbers={**WEIGHT.numbers, "rate": Tagged("tuple", ())}),
        as_map(WEIGHT, numbers={**WEIGHT.numbers, "keep": 0.5}), as_map(WEIGHT, numbers=CAST.numbers),
    ],
)  # fmt: skip
def test_no_recipe(value):
    """Well encoded, and yet not what a writer writes."""
    with pytest.raises(EncodingError):
        decode_recipe(encode(value))


def test_numbers_of_other_rules_are_left_out():
    """One set of numbers serves both rules of a step."""
    both = Recipe(WEIGHT.rule, WEIGHT.bases, {**WEIGHT.numbers, "gain": 10.0, "keep": 0.5, "take": 0.5})
    assert encode_recipe(both) == encode_recipe(WEIGHT)


def test_a_wrong_recipe_is_not_encoded():
    """A writer's mistake shows before anything is stored."""
    for wrong in (
        Recipe("cast", (), CAST.numbers),
        Recipe("cast", CAST.bases, {"from": "float32", "to": "bfloat16"}),
        Recipe("other", CAST.bases, CAST.numbers),
        Recipe(WEIGHT.rule, WEIGHT.bases, {**WEIGHT.numbers, "eps": 1e-8}),  # not a float32
    ):
        with pytest.raises(EncodingError):
            encode_recipe(wrong)


def test_an_id_of_its_own():
    """A recipe's bytes as a chunk have another id, and the id is pinned."""
    data = encode_recipe(WEIGHT)
    assert Kind.RECIPE == 4 and object_id(Kind.RECIPE, data) != digest(data)
    assert object_id(Kind.RECIPE, data).hex() == "08463666e03437a8f4f3ee45e403a005628b4bea7c0a36cc638a5ee2e6e32a7b"
