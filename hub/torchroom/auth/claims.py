"""A name, a subject and groups out of what an identity provider says. Pure.

What a provider says may have any shape: whoever runs it can map any attribute to any
claim. A claim of the wrong shape is an error that says so; it is never bent into one
that fits.
"""

import re
from collections.abc import Mapping
from typing import Any

NAME = re.compile(r"[a-z0-9](?:[a-z0-9._@+-]{0,62}[a-z0-9])?")
NAME_RULE = "1 to 64 of a-z 0-9 . _ @ + -, beginning and ending with a letter or digit"
SUBJECT_MAX = 255
GROUPS_MAX = 5000
GROUP_MAX = 1000

Claims = Mapping[str, Any]


class ClaimError(Exception):
    """A claim cannot be used; a sentence for the person who logs in."""


def find(claims: Claims, path: str) -> Any:
    """Return a claim, None if it is not there.

    Args:
        claims: All of them.
        path: Its name; of a claim inside of others, the names with dots between.
    """
    if path in claims:  # names may have dots themselves: https://school.example/groups
        return claims[path]
    found: Any = claims
    for name in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(name)
    return found


def name_of(claims: Claims, claim: str, *, trusts_email: bool = False) -> str:
    """Return the name that somebody has on the hub.

    It is in small letters, so two accounts whose names differ in nothing else are the
    same name: `Accounts` keeps the second one out.

    Args:
        claims: All of them.
        claim: The one with the name.
        trusts_email: Whether an e-mail address is the account's own if the provider
            does not say that it verified it. If it says that it did not, it never is.

    Raises:
        ClaimError: There is none, or the hub does not take it.
    """
    found = find(claims, claim)
    if found is None or found == "":
        raise ClaimError(
            f"Your account has no {claim!r}, from which this hub takes people's names."
        )
    if not isinstance(found, str):
        raise ClaimError(f"The {claim!r} of your account is not a text.")
    name = found.strip().lower()
    # lower() maps letters outside of a-z onto it: the sign for kelvin becomes k.
    if not found.isascii() or not NAME.fullmatch(name):
        raise ClaimError(
            f"The {claim!r} of your account cannot be a name on this hub; names are "
            f"{NAME_RULE}."
        )
    if claim.rpartition(".")[2] == "email":
        _check_verified(claims, trusts_email=trusts_email)
    return name


def _check_verified(claims: Claims, *, trusts_email: bool) -> None:
    verified = claims.get("email_verified")
    if verified is None and not trusts_email:
        raise ClaimError(
            "Your account's provider does not say whether your e-mail address, from "
            "which this hub takes names, is verified."
        )
    if not (verified is None or verified is True or verified == "true"):
        raise ClaimError("Your account's e-mail address has not been verified yet.")


def subject_of(claims: Claims, claim: str) -> str:
    """Return what tells an account from every other, for ever.

    Raises:
        ClaimError: There is none.
    """
    found = claims.get(claim)
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if not isinstance(found, str) or not 1 <= len(found) <= SUBJECT_MAX:
        raise ClaimError("Your account has no lasting identifier.")
    return found


def groups_of(claims: Claims, claim: str) -> frozenset[str] | None:
    """Return somebody's groups, None if the provider says nothing about them.

    A text is one group: some providers send a list of one like that.

    Raises:
        ClaimError: They are neither a list of texts nor a text.
    """
    found = find(claims, claim)
    if found is None:
        return None
    if isinstance(found, str):
        found = [found] if found else []
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ClaimError(f"The {claim!r} of your account is not a list of groups.")
    if len(found) > GROUPS_MAX or any(len(name) > GROUP_MAX for name in found):
        raise ClaimError(
            f"The {claim!r} of your account has more than {GROUPS_MAX} groups, or one "
            f"with more than {GROUP_MAX} characters."
        )
    return frozenset(found)


def teams_of(teams: Any) -> frozenset[str] | None:
    """Return GitHub's teams as groups: "org:team", and "org" for each of them.

    Raises:
        ClaimError: GitHub said something else than teams.
    """
    if teams is None:
        return None
    try:
        pairs = [
            (str(team["organization"]["login"]), str(team["slug"])) for team in teams
        ]
    except (TypeError, KeyError) as error:
        raise ClaimError("GitHub did not say which teams you are in.") from error
    return frozenset(
        {org for org, _ in pairs} | {f"{org}:{slug}" for org, slug in pairs}
    )


def missing(claims: Claims, required: Mapping[str, list[str]]) -> str:
    """Return the claim that has not one of its required values, "" if all have."""
    for claim, allowed in required.items():
        if find(claims, claim) not in allowed:
            return claim
    return ""
