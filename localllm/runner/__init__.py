"""One child process per loaded model: the protocol, the parent's side and the child's side."""
