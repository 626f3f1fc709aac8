import pytest

pytest.register_assert_rewrite("tests.machine.harness", "tests.machine.model")
