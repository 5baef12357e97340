"""What `pixelis buffer ...` does, as functions that know no command line.

`stat`, `stat_page`, `verify`, `dump` and `export_buffer` read, beside a running owner too; `repair`, `compact` and
`import_buffer` own the directory while they work. Each takes the buffer's directory and finds its shape in buffer.json.
"""

from components.ttrl.buffer.tools.inspect import dump, stat, verify
from components.ttrl.buffer.tools.page import stat_page
from components.ttrl.buffer.tools.repair import compact, repair
from components.ttrl.buffer.tools.transfer import export_buffer, import_buffer

__all__ = ["compact", "dump", "export_buffer", "import_buffer", "repair", "stat", "stat_page", "verify"]
