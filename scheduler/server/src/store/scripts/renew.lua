-- Renew the lease, provided that the caller leads.
-- KEYS[1] leader epoch    KEYS[2] leader (lease)
-- ARGV[1] caller's epoch  ARGV[2] instance id and address  ARGV[3] length of the lease, ms
-- Returns {'ok'} or {'fenced', epoch}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
return {'ok'}
