"""What somebody who is refused reads: a title, one sentence, and a way on."""

from html import escape

from tornado import web


class Refusal(web.HTTPError):
    """An error as JupyterHub shows it: as text to programs, as HTML on pages."""

    jupyterhub_message = ""
    jupyterhub_html_message = ""


AGAIN = "Log in again"
OTHER = "Log in with another account"


def refusal(
    status: int, title: str, sentence: str, *, link: str = "", url: str = ""
) -> Refusal:
    """Return an error that pages and the API show as it is, without a traceback.

    Args:
        status: Of HTTP.
        title: Plain ASCII; also the answer's reason.
        sentence: For the person; may quote what came from outside.
        link: Shown below the sentence on pages, if there is a `url`.
        url: Where it leads.
    """
    sentence = sentence[:1].upper() + sentence[1:]
    error = Refusal(status, sentence, reason=title)
    error.jupyterhub_message = sentence
    html = escape(sentence)
    if url:
        html += f'</p><p><a role="button" class="btn btn-primary" href="{escape(url)}">'
        html += f"{escape(link)}</a>"
    error.jupyterhub_html_message = html
    return error


def not_a_member(
    name: str, provider: str, *, said_groups: bool, url: str = ""
) -> Refusal:
    """They are who they say, and in nothing here."""
    why = "" if said_groups else f" ({provider} did not say which groups {name} is in.)"
    return refusal(
        403,
        "Not in a course here",
        f"You are logged in as {name}, and {name} is in no course of this hub. Ask "
        f"your instructor to add {name} to the course, or use the account that is in "
        f"it.{why}",
        link=OTHER,
        url=url,
    )


def removed(name: str) -> Refusal:
    """They were a member, and are none any more."""
    return refusal(
        403,
        "Not in a course here any more",
        f"{name} is in no course of this hub any more. Saved files are kept; ask your "
        "instructor if this is a mistake.",
    )


def deleted(name: str) -> Refusal:
    """An admin deleted them while the provider was asked about them."""
    return refusal(
        403,
        "User deleted",
        f"The hub's admin has deleted the user {name}. Log in again, or ask the admin "
        "if this is a mistake.",
    )


def taken(name: str, provider: str, url: str) -> Refusal:
    """The name belongs to somebody else."""
    return refusal(
        403,
        "Name taken",
        f"The name {name} belongs to another account of {provider} on this hub. Use "
        f"that account, or ask the hub's admin to delete the user {name} first.",
        link=OTHER,
        url=url,
    )


def bad_claim(sentence: str, url: str) -> Refusal:
    """The account has not what the hub needs."""
    return refusal(
        403,
        "Account cannot be used",
        f"{sentence} Show this to whoever runs the hub, or use another account.",
        link=OTHER,
        url=url,
    )


def untrusted(provider: str, url: str) -> Refusal:
    """The provider's answer does not prove anything."""
    return refusal(
        403,
        "Login not proven",
        f"The answer of {provider} could not be verified, so nobody was logged in. Try "
        "again; if it stays, tell whoever runs the hub.",
        link=AGAIN,
        url=url,
    )


def no_passwords(provider: str, url: str) -> Refusal:
    """Somebody sent a password to the hub itself."""
    return refusal(
        403,
        "No passwords here",
        f"This hub takes no passwords. Log in with {provider}.",
        link=AGAIN,
        url=url,
    )


def session_over(name: str, provider: str, url: str) -> Refusal:
    """Who they were is known, and not whether they still are."""
    return refusal(
        403,
        "Log in again",
        f"The session of {name} at {provider} is over, so no new server starts for "
        f"{name}: log in again on the hub's page. Servers that run go on.",
        link=AGAIN,
        url=url,
    )


def not_finished(provider: str, url: str) -> Refusal:
    """The provider takes the code no more, or the person said no."""
    return refusal(
        403,
        "Login not finished",
        f"{provider} did not finish this login. Log in again.",
        link=AGAIN,
        url=url,
    )


def lost(url: str) -> Refusal:
    """This browser began no such login."""
    return refusal(
        400,
        "Login not begun here",
        "This login was begun in another browser or another tab, or too long ago. Log "
        "in again.",
        link=AGAIN,
        url=url,
    )


def unreachable(provider: str, url: str) -> Refusal:
    """The provider is down."""
    return refusal(
        503,
        "Login unavailable",
        f"{provider} does not answer as it should just now. Try again in a minute; "
        "servers that run go on.",
        link=AGAIN,
        url=url,
    )
