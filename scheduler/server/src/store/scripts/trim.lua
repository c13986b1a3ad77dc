-- Drop a job's oldest events, which are kept elsewhere by now, provided that the caller leads.
-- KEYS[1] leader epoch    KEYS[2] event stream
-- ARGV[1] caller's epoch  ARGV[2] the first cursor that stays
-- Returns {'ok'} or {'fenced', epoch}.
local epoch = redis.call('GET', KEYS[1]) or '0'
if epoch ~= ARGV[1] then return {'fenced', epoch} end
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[2] .. '-0')
return {'ok'}
