"""What runs in a server: the client, its outbox, and models that follow their live version."""
