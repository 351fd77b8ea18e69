"""The code of docs/same_numbers.md is run: each block compares another loop with this package."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "same_numbers.md"


def test_every_block_of_the_page_holds():
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    assert len(blocks) == 7
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        assert number == 0 or ("assert" in block and 5 <= block.count("\n") <= 15)
        exec(compile(block, f"{PAGE.name}, block {number}", "exec"), names)
