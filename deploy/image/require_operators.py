"""Fail unless the wheel of decant in a folder holds native operators: `require_operators.py FOLDER cpu cuda`.

A build without a compiler makes a wheel all the same, whose operators run as plain torch; an image must not.
"""

import sys
from pathlib import Path
from zipfile import ZipFile

folder, *devices = sys.argv[1:]
(wheel,) = Path(folder).glob("decant-*.whl")
with ZipFile(wheel) as content:
    names = set(content.namelist())
    missing = [device for device in devices if f"kernels/lib/libdecant_{device}.so" not in names]
    if missing:
        record = content.read("kernels/lib/build.json").decode()
        sys.exit(f"{wheel.name} lacks operators for {', '.join(missing)}: {record}")
