"""The same job in other frameworks, each as its own documentation would write it."""
