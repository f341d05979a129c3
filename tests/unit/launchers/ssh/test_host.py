"""Hosts as they are given on the command line."""

import pytest

from instructrl.errors import InputError
from launchers.ssh.host import read_hosts


def test_hosts_are_read_from_the_command_line() -> None:
    first, second = read_hosts("me@10.0.0.1:2222, tpu-7", user="you")
    assert (first.user, first.address, first.port) == ("me", "10.0.0.1", 2222)
    assert (second.user, second.name, second.port) == ("you", "tpu-7", 22)


@pytest.mark.parametrize("wrong", ["", "a b", "-oProxyCommand=x", "a:x", "a,,b", "a,a"])
def test_hosts_of_another_form_are_refused(wrong: str) -> None:
    with pytest.raises(InputError, match=r"^addresses: "):
        read_hosts(wrong)
