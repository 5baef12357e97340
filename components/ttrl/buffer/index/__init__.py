"""The search index: faiss behind an adapter, built by a niced process of its own, swapped in whole, checked for recall.

`kinds` names what can be built and searched; `file` is its form on disk; `rebuild` is the building process;
`generation` is one index in memory with the records it covers; `tail` holds the vectors no index covers yet;
`builder` starts the process and adopts its result. The index is never the truth: it can be deleted at any time and is
built again.
"""
