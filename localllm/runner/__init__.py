"""One child process per loaded model: the protocol, the parent's side and the child's side.

    protocol                            every message between the two
    handle → process → child, death     the parent's side: requests and events, life and end
    preparer → conversation (exchange) → worker → answer → speaker      the child's side: chat and engine together
    embedding                           the child's side of a model that makes vectors

The parent also asks children that live for one question: preflight (does the engine run here?), inventory (which
devices are there, how fast?) and measuring (what would a model take?).
"""
