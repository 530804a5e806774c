"""Speed: what this project does in a second, beside what this machine can do at best."""
