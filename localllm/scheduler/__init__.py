"""Which models are loaded, who waits for them, and who makes room.

From a request to its lease, in order:

    loop → policy (room, fairness) on state         the one owner of the state, and pure decisions about it
    fleet → planner, running                        the effects: plan a load, start a runner, keep it

Whose turn it is inside a model is the engine's business.
"""
