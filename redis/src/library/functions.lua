-- As functions. A step that stores nothing new runs when memory is short, so that memory can be freed.
-- One by one: Redis 7.0 has no `pairs` while it loads a library.
redis.register_function{function_name = '@PREFIX@open', callback = steps.open}
redis.register_function{function_name = '@PREFIX@hello', callback = steps.hello, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@bye', callback = steps.bye, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@beat', callback = steps.beat, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@tick', callback = steps.tick, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@note', callback = steps.note, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@put', callback = steps.put}
redis.register_function{function_name = '@PREFIX@admit', callback = steps.admit}
redis.register_function{function_name = '@PREFIX@give_up', callback = steps.give_up, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@shrink', callback = steps.shrink, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@store', callback = steps.store}
redis.register_function{function_name = '@PREFIX@claim', callback = steps.claim, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@clear', callback = steps.clear, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@close', callback = steps.close, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@limit', callback = steps.limit, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@stats', callback = steps.stats, flags = {'no-writes'}}
redis.register_function{function_name = '@PREFIX@put_back', callback = steps.put_back, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@renew', callback = steps.renew, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@unsent', callback = steps.unsent, flags = {'allow-oom'}}
redis.register_function{function_name = '@PREFIX@owner', callback = steps.owner, flags = {'no-writes'}}
