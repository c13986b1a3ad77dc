-- Give the lease back, if it is the caller's.
-- KEYS[1] leader (lease)
-- ARGV[1] instance id
-- Returns {'ok'}.
local holder = redis.call('GET', KEYS[1])
if holder and string.sub(holder, 1, #ARGV[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return {'ok'}
