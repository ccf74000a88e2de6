"""Which models are loaded, who waits for them, and who makes room.

loop → policy (room, fairness) on state     the one owner of the state, and pure decisions about it
fleet → planner, running                    the effects: plan a load, start a runner, keep it
"""
