-- As a script, for engines whose operator does not allow functions: the first argument names the step.
local arguments = {}
for i = 2, #ARGV do arguments[i - 1] = ARGV[i] end
return steps[ARGV[1]](KEYS, arguments)
