"""Every attack of tests/support/media_attacks.py: none is let in, none ends a run, and what is only unusual is taken."""

from __future__ import annotations

import re
import time

from media_attacks import attacks, world

from rayllm_batch.media.media_error import MediaError


def test_no_attack_is_let_in_and_each_is_its_rows_error_alone() -> None:
    tried = attacks()
    with world() as there:
        began = time.monotonic()
        found = there.reader.read_all([(one.kind, there.source(one)) for one in tried])
        assert time.monotonic() - began < 60
        said = [str(one) if isinstance(one, MediaError) else "" for one in found]
        wrong = {
            f"{attack.family}: {attack.what[:80]}": error
            for attack, error in zip(tried, said, strict=True)
            if bool(error) != bool(attack.said) or not re.search(attack.said, error)
        }
        assert wrong == {}
        assert there.inner.asked == {}, "a server that rows may not reach was asked"
        assert there.names.asked["rebind.example"] == 1, "the address that was checked is the one that is connected to"
        lines = b"".join(there.web.heads).lower()
        assert not re.search(rb"\n(x-evil|cookie|authorization|proxy-authorization|referer):", lines)
        assert all(len(error) < 1_000 and "\n" not in error for error in said)
    assert len(tried) > 200
