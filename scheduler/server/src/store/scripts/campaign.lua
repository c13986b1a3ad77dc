-- Draw a new leader epoch.
-- KEYS[1] schema         KEYS[2] leader epoch  KEYS[3] leader (instance id)
-- ARGV[1] our schema     ARGV[2] instance id   ARGV[3] 'take', or 'renew' to yield to another instance
-- Returns {'ok', epoch}, {'schema', found} or {'fenced', epoch}.
local schema = redis.call('GET', KEYS[1])
if schema and schema ~= ARGV[1] then return {'schema', schema} end
if ARGV[3] == 'renew' and redis.call('GET', KEYS[3]) ~= ARGV[2] then
  return {'fenced', redis.call('GET', KEYS[2]) or '0'}
end
redis.call('SET', KEYS[1], ARGV[1])
redis.call('SET', KEYS[3], ARGV[2])
return {'ok', tostring(redis.call('INCR', KEYS[2]))}
