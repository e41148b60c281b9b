/* Sleeps; or, as `sleeper spawn COUNT BYTES`, makes COUNT sleepers with BYTES of arguments each and then sleeps. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

static void spawn(const char *self, long number, char *filling, char **environment)
{
	char name[32];

	snprintf(name, sizeof(name), "%ld", number);
	char *arguments[] = { (char *)self, name, filling, NULL };
	pid_t pid = vfork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execve(self, arguments, environment);
		_exit(1);
	}
	/* Slow enough for any reader of the ring: this is about memory, not about speed. */
	if (number % 8 == 0)
		usleep(2000);
}

int main(int argc, char **argv, char **environment)
{
	if (argc == 4 && strcmp(argv[1], "spawn") == 0) {
		long count = atol(argv[2]), bytes = atol(argv[3]);
		char *filling = malloc(bytes + 1);

		memset(filling, 'x', bytes);
		filling[bytes] = 0;
		for (long number = 0; number < count; number++)
			spawn(argv[0], number, filling, environment);
		puts("done");
		fflush(stdout);
	}
	for (;;)
		pause();
}
