"""Settings come from a file, the environment and arguments; the last one wins, and every mistake is named."""

from pathlib import Path
from typing import Any

import pytest

from ringpost.contract.errors import UsageError
from ringpost.core.policy import KEYS, Policies, Said, explained, resolved
from ringpost.settings import FILE_NAME, Given, Settings, find_file, load


def write(folder: Path, text: str) -> Path:
    file = folder / FILE_NAME
    file.write_text(text)
    return file


def test_without_anything_the_defaults_stand(tmp_path: Path) -> None:
    assert load(folder=tmp_path, environ={}) == Settings()


def test_the_file_is_found_upwards_and_paths_are_beside_it(tmp_path: Path) -> None:
    write(tmp_path, 'store = "sqlite:///data/a.db"\ntls_cert = "a.pem"\ntls_key = "a.key"')
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    settings = load(folder=deep, environ={})
    assert settings.store == f"sqlite:///{tmp_path}/data/a.db"
    assert settings.tls_cert == str(tmp_path / "a.pem")
    assert find_file(deep) == tmp_path / FILE_NAME


def test_whoever_names_the_store_means_the_same_file(tmp_path: Path) -> None:
    write(tmp_path, "workers = 2")
    deep = tmp_path / "deep"
    deep.mkdir()
    by_variable = load(folder=deep, environ={"RINGPOST_STORE": "sqlite:///a.db"})
    by_argument = load({"store": "sqlite:///a.db"}, folder=deep, environ={})
    assert by_variable.store == by_argument.store == f"sqlite:///{tmp_path}/a.db"


@pytest.mark.parametrize("url", ["sqlite:////var/a.db", "memory:", "postgresql://u@h/d"])
def test_an_absolute_store_stays_as_it_is(tmp_path: Path, url: str) -> None:
    assert load({"store": url}, folder=tmp_path, environ={}).store == url


def test_the_last_one_wins_and_addresses_win_contract_by_contract(tmp_path: Path) -> None:
    write(tmp_path, 'workers = 2\nlease = 3\n[addresses]\nbilling = "http://file"\nmail = "http://file"')
    environ = {"RINGPOST_WORKERS": "4", "RINGPOST_ADDRESSES": "mail=https://env, shop=https://env", "OTHER": "x"}
    settings = load({"addresses": {"shop": "https://given"}}, folder=tmp_path, environ=environ)
    assert settings.workers == 4
    assert settings.lease_s == 3.0
    assert settings.addresses == {"billing": "http://file", "mail": "https://env", "shop": "https://given"}


def test_the_door_can_be_closed_and_a_named_one_is_known_as_named(tmp_path: Path) -> None:
    assert load({"http": None}, folder=tmp_path, environ={}).http is None
    assert load(folder=tmp_path, environ={"RINGPOST_HTTP": "off"}).http is None
    assert load({"http": "None"}, folder=tmp_path, environ={}).http is None
    for text in ("http = false", 'http = "none"', 'http = "off"'):
        write(tmp_path, text)
        assert load(folder=tmp_path, environ={}).http is None
    named = load({"http": "127.0.0.1:9"}, folder=tmp_path, environ={})
    assert (named.http, named.http_given) == ("127.0.0.1:9", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worker = 2", "Did you mean workers?"),
        ("colour = 2", "There are addresses"),
        ("limiter = 'vegas'", "limiter is"),
        ("call_queue = -1", "call_queue must be at least 0"),
        ("limit_least = 0", "limit_least must be at least 1"),
        ("workers = 'two'", "a whole number such as 1"),
        ("workers = true", "a whole number such as 1"),
        ("workers = 0", "at least 1"),
        ("lease = 0.5", "at least 1"),
        ("lease = inf", "seconds as a number"),
        ("http = 8000", '"127.0.0.1:8000"'),
        ("store = 'ringpost.db'", '"sqlite:///ringpost.db"'),
        ("durability = 'strong'", "durable, replicated and buffered"),
        ("addresses = 'http://x'", "contract → URL"),
        ("[addresses]\nbilling = 'billing:80'", "begins with http:// or https://"),
        ("workers = ", "is no TOML"),
        ("tls_cert = 'a'", "belong together"),
        ("call_timeout = 0", "more than 0"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_what_to_write(tmp_path: Path, text: str, said: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        load(folder=tmp_path, environ={})
    assert said in str(caught.value)
    assert str(file) in str(caught.value) or "belong together" in said


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"RINGPOST_WORKER": "2"}, "RINGPOST_WORKER is no setting of Ringpost. Did you mean RINGPOST_WORKERS?"),
        ({"RINGPOST_WORKERS": "two"}, "RINGPOST_WORKERS takes a whole number"),
        ({"RINGPOST_LEASE": "soon"}, "RINGPOST_LEASE takes seconds"),
        ({"RINGPOST_ADDRESSES": "https://x"}, "RINGPOST_ADDRESSES: write billing=https://…"),
    ],
)
def test_a_mistake_in_the_environment_is_named(tmp_path: Path, environ: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match="RINGPOST_") as caught:
        load(folder=tmp_path, environ=environ)
    assert said in str(caught.value)


def test_a_wrong_argument_is_named(tmp_path: Path) -> None:
    wrong: Any = {"workers": "two"}
    given: Given = wrong
    with pytest.raises(UsageError, match="workers takes a whole number"):
        load(given, folder=tmp_path, environ={})


# --- policies


def policies(tmp_path: Path, text: str, **environ: str) -> Policies:
    (tmp_path / FILE_NAME).write_text(text)
    return load(folder=tmp_path, environ=environ).policies


def test_policies_are_set_for_the_process_a_contract_and_an_operation(tmp_path: Path) -> None:
    text = '[policies]\nattempts = 2\n[policies.billing]\nslow = 1\n[policies."billing.charge"]\nhedge = false\n'
    assert policies(tmp_path, text) == {
        "": {"attempts": 2},
        "billing": {"slow_s": 1.0},
        "billing.charge": {"hedge": False},
    }
    nested = "[policies.billing.charge]\nattempts = 1\n"
    assert policies(tmp_path, nested) == {"billing.charge": {"attempts": 1}}


def test_policies_of_file_and_variable_are_joined_by_name_and_key(tmp_path: Path) -> None:
    text = "[policies]\nattempts = 2\nhedge = false\n"
    said = "attempts=5, billing.limit=8, billing.charge.slow=0.5"
    assert policies(tmp_path, text, RINGPOST_POLICIES=said) == {
        "": {"attempts": 5, "hedge": False},
        "billing": {"limit": 8},
        "billing.charge": {"slow_s": 0.5},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policies = 3", "policies takes a table"),
        ("[policies]\nattemps = 2", "policies: attemps is no part of a policy. Did you mean attempts?"),
        ("[policies]\nfoo = 2", "foo is no part of a policy. There are attempts,"),
        ("[policies]\nattempts = 0", "attempts is from 1 to 10, not 0"),
        ("[policies]\nattempts = 1.5", "attempts takes a whole number such as 3, not 1.5"),
        ("[policies]\nhedge = 1", "hedge is true or false, not 1"),
        ("[policies]\nslow = true", "slow takes a number such as 2.5, not True"),
        ("[policies.billing]\nerror_rate = 2", "billing: error_rate is from 0.01 to 1, not 2"),
        ("[policies.billing]\nlimit = 3", "limit is from 4 to 1,024, not 3"),
        ("[policies.Billing]\nlimit = 8", "Billing is neither a contract nor an operation"),
        ("[policies.a.b.c]\nlimit = 8", "c is neither a contract nor an operation"),
    ],
)
def test_a_wrong_policy_is_refused_with_what_to_write(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        policies(tmp_path, text)
    assert said in str(refused.value)


@pytest.mark.parametrize("said", ["attempts", "=2", "billing.attempts=two"])
def test_a_wrong_policy_in_a_variable_is_refused(said: str) -> None:
    with pytest.raises(UsageError, match="RINGPOST_POLICIES"):
        load(environ={"RINGPOST_POLICIES": said})


def test_the_nearest_policy_wins_and_it_is_known_whose_it_is() -> None:
    set_ = {"": {"attempts": 2, "hedge": False}, "billing": {"hedge": True}, "billing.charge": {"attempts": 1}}
    policy = resolved(set_, "billing", "billing.charge")
    assert (policy.attempts, policy.hedge, policy.limit) == (1, True, 128)
    assert resolved(set_, "mail", "mail.welcome").attempts == 2
    said = explained(set_, "billing", "billing.charge")
    assert {key: one.value for key, one in said.items()} == {key: getattr(policy, KEYS[key]) for key in KEYS}
    assert (said["attempts"].by, said["hedge"].by, said["limit"].by) == ("billing.charge", "billing", None)
    assert explained(set_, "mail", "mail.welcome")["hedge"] == Said(False, "")
