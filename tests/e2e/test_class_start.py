"""A class arrives: everybody starts at once, and everybody gets a server."""

import contextlib
import re

import pytest
from testbed.engine import wait_until
from testbed.hub import Deployment, crowd, together

pytestmark = pytest.mark.docker

N_STUDENTS = 16
READY_WITHIN_S = 400
"""A machine may be slow; JupyterHub's own limits would have ended starts long ago."""


def test_a_class_that_starts_at_once_gets_all_its_servers(
    deployment: Deployment,
) -> None:
    """All become ready, and who waits reads how many are ahead and how long it takes.

    A stock DockerSpawner gets none of sixteen ready on two cores within its limits.
    """
    with crowd(deployment) as people, contextlib.ExitStack() as stack:
        students = [people("student") for _ in range(N_STUDENTS)]
        for student in students:
            student.request_server_in_background({"offer": "cpu"})
        pages = []
        for student in students:
            student.wait_listed()
            pages.append(stack.enter_context(contextlib.closing(student.watch())))
        wait_until(
            lambda: all(page.is_ended for page in pages),
            what="every start has ended",
            within_s=READY_WITHIN_S,
        )
        ends = [page.events[-1] for page in pages]
        assert all(end.get("ready") for end in ends), ends
        assert all(together(student.answers for student in students))
        told = [text for page in pages for text in page.messages]
        assert any(re.search(r"Starting: \d+ ahead", text) for text in told)
        assert any(re.search(r"Starting: .*about \d+ s", text) for text in told)
