"""English words for the training text, by kind, and the few inflections that it needs."""

from __future__ import annotations

from pathlib import Path

IRREGULAR_PAST = {
    base: past
    for base, past in (
        pair.split(":")
        for pair in (
            "say:said make:made take:took go:went come:came see:saw know:knew get:got give:gave find:found "
            "think:thought tell:told become:became show:showed leave:left feel:felt put:put bring:brought "
            "begin:began keep:kept hold:held write:wrote stand:stood hear:heard let:let mean:meant set:set "
            "meet:met run:ran pay:paid sit:sat speak:spoke lie:lay lead:led read:read grow:grew lose:lost "
            "fall:fell send:sent build:built understand:understood draw:drew break:broke spend:spent cut:cut "
            "rise:rose drive:drove buy:bought wear:wore choose:chose win:won sell:sold teach:taught "
            "catch:caught fight:fought throw:threw seek:sought shoot:shot strike:struck sink:sank swim:swam "
            "steal:stole sing:sang beat:beat withdraw:withdrew flee:fled hide:hid eat:ate drink:drank "
            "sleep:slept wake:woke dream:dreamt lend:lent cost:cost burn:burnt deal:dealt shrink:shrank "
            "forbid:forbade freeze:froze tear:tore swear:swore bite:bit bleed:bled ring:rang cost:cost "
            "broadcast:broadcast overcome:overcame undergo:underwent quit:quit spread:spread shut:shut"
        ).split()
    )
}
VOWELS = "aeiou"


def read_words() -> dict[str, list[str]]:
    """The words of words.txt by section, the commonest first, each once."""
    words: dict[str, dict[str, None]] = {}
    section: dict[str, None] = {}
    for line in Path(__file__).with_name("words.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            section = words.setdefault(line.strip("[]"), {})
        elif not line.startswith("#"):
            section.update(dict.fromkeys(line.split()))
    return {name: list(entries) for name, entries in words.items()}


def plural(noun: str) -> str:
    """country -> countries"""
    if noun.endswith("y") and noun[-2:-1] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s")


def past(verb: str) -> str:
    """deny -> denied"""
    if verb in IRREGULAR_PAST:
        return IRREGULAR_PAST[verb]
    if verb.endswith("e"):
        return verb + "d"
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "ied"
    return (verb + verb[-1] if _doubles(verb) else verb) + "ed"


def gerund(verb: str) -> str:
    """run -> running"""
    if verb.endswith("e") and not verb.endswith(("ee", "ye", "oe")):
        return verb[:-1] + "ing"
    return (verb + verb[-1] if _doubles(verb) else verb) + "ing"


def _doubles(verb: str) -> bool:
    """Whether a short verb's last consonant is doubled: stop -> stopped, but fix -> fixed."""
    return len(verb) <= 4 and verb[-1] in "bdgmnprt" and verb[-2:-1] in VOWELS and verb[-3:-2] not in VOWELS
