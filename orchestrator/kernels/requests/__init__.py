"""The request path as pure functions: breaker, retries, limiter, balancer, queues."""
