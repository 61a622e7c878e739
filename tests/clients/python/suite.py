"""Runs the compliance suite against a server: suite.py ADDRESS:PORT.

Prints one JSON object: the number of each case, and what was made of it: the verdict on the messages, the one on the end, and the
code that the server closed with. NON-STRICT is OK here: it says that a server has failed a connection before it answered the good
messages that had come with the bad frame, and whether they come with it is chance.
"""

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient

# Cases at once: most of them wait.
CONCURRENCY = 8
# Of these there are 216, each a thousand compressed messages of which only the size differs: one of each size of window is run.
COMPRESSED = ["12.*", "13.*"]
OF_COMPRESSED = ["12.1.1", "12.2.1", "13.1.1", "13.3.1", "13.7.1"]


# How often a case is run alone that has failed beside others: a second is all that most give a server, on a machine of any load.
TRIES = 2


async def run(included, excluded, concurrency=CONCURRENCY):
    try:
        return await run_fuzzingclient(sys.argv[1], included, excluded, concurrency=concurrency)
    except FailureError as failure:
        return failure.results


async def main():
    results = await run(None, COMPRESSED) + await run(OF_COMPRESSED, None)
    results = {r.case_id: r for r in results}
    for _ in range(TRIES):
        failed = [case for case, r in results.items() if not r.passed]
        if failed:
            results.update({r.case_id: r for r in await run(failed, None, concurrency=1)})
    strict = {"NON-STRICT": "OK"}
    verdicts = {}
    for r in results.values():
        messages = strict.get(r.behavior.value, r.behavior.value)
        verdicts[r.case_id] = [messages, r.behavior_close.value, r.remote_close_code]
    print(json.dumps(verdicts), flush=True)
    # Not by the interpreter's own way, in which threads of the suite sometimes abort the process.
    os._exit(0)


asyncio.run(main())
