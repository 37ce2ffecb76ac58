"""The agents of tests/agent, for the fault rows."""

from tests.agent.conftest import driving_agent, random_agent

__all__ = ["driving_agent", "random_agent"]
