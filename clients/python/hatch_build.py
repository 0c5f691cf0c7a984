"""Puts the agent's program into a wheel of one platform.

A plain build makes `py3-none-any`, without it. A release sets `G2G_AGENT_WHEEL_BINARY`, the path of a static program,
and `G2G_AGENT_WHEEL_TAG`, the platforms that it runs on, such as `manylinux_2_17_x86_64.musllinux_1_1_x86_64`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BinaryBuildHook(BuildHookInterface[Any]):
    """The build hook that hatchling finds here."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Adds the program and the tag, if the environment names them.

        Args:
            version: `standard`, or `editable`, in which nothing is added.
            build_data: What the builder is told.

        Raises:
            ValueError: One of the two variables is missing, or is none of what it should be.
        """
        binary = os.environ.get("G2G_AGENT_WHEEL_BINARY", "")
        platforms = os.environ.get("G2G_AGENT_WHEEL_TAG", "")
        if version != "standard" or not (binary or platforms):
            return
        if not (binary and platforms):
            raise ValueError("G2G_AGENT_WHEEL_BINARY and G2G_AGENT_WHEEL_TAG belong together: set both, or neither")
        path = Path(binary)
        if not path.is_file() or not os.access(path, os.X_OK):
            raise ValueError(f"G2G_AGENT_WHEEL_BINARY is {binary!r}, which is no program that can be run")
        if not re.fullmatch(r"(manylinux|musllinux|macosx)_\d+_\d+_\w+(\.\w+)*", platforms):
            raise ValueError(f"G2G_AGENT_WHEEL_TAG is {platforms!r}; want platforms such as macosx_12_0_arm64")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platforms}"
        build_data["force_include"][str(path.absolute())] = "g2g_agent/bin/g2g-agent"
