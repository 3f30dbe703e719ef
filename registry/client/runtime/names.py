"""Names for containers that were given none: a mood and somebody who made computing or science what it is."""

from __future__ import annotations

import secrets

_MOODS = """
able agile amused ardent artful attentive balanced blithe bold brisk buoyant calm candid careful cheerful civil
clever composed cordial curious daring deft diligent eager earnest easy elated fair fearless frank friendly frugal
gentle gifted glad graceful grand hardy hearty honest hopeful humble jolly jovial keen kind lively loyal lucid
mellow merry mindful modest neat nimble noble patient placid plucky polite proud prudent quick quiet ready
resolute serene sharp sincere skilful smooth sober spirited spry steady stoic sturdy subtle sunny tender thorough
tidy tranquil trusty upbeat valiant vivid warm wise witty zealous
"""
_PEOPLE = """
abel allen archimedes babbage backus banach bell bernoulli bohr boole borg brahe cantor carson cerf church codd
cori cray curie darwin davies dijkstra dirac einstein engelbart erdos euclid euler faraday fermat fermi feynman
floyd fourier franklin galileo galois gauss germain goldberg goldstine godel hamilton hamming hertz hilbert hoare
hopper humboldt hypatia johnson joliot kalman kare kepler kernighan kilby knuth kolmogorov kovalevskaya lamarr
lamport laplace leavitt leibniz liskov lovelace maxwell mccarthy mcclintock meitner mendel mendeleev mirzakhani
moore morse naur newton nightingale noether nygaard pascal pasteur perlman planck poincare postel ramanujan
riemann ritchie rubin sammet shannon sinoussi spence stallman sutherland swartz tesla thompson torvalds turing
ulam vaughan volta wiles wilkes wilson wing wirth wozniak wu yalow zuse
"""


def make(attempt: int = 0) -> str:
    """A name like `calm_hopper`; from the second attempt on with a number."""
    name = f"{secrets.choice(_MOODS.split())}_{secrets.choice(_PEOPLE.split())}"
    return name if attempt < 2 else f"{name}{secrets.randbelow(10**attempt)}"
