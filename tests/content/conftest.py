"""The contract is no test file by its name, but its assertions shall speak as those of tests do."""

import pytest

pytest.register_assert_rewrite("tests.content.contract")
