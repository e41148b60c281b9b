// Copies a program into a file that has no name (memfd) and executes it: from_memory PROGRAM ARGUMENT...
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

int main(int count, char **arguments)
{
	struct stat program;
	int from = open(arguments[count > 1], O_RDONLY);
	int memory = memfd_create("payload", MFD_CLOEXEC);

	if (count < 2 || from < 0 || memory < 0 || fstat(from, &program))
		return 1;
	if (sendfile(memory, from, 0, program.st_size) != program.st_size)
		return 1;
	fexecve(memory, arguments + 1, environ);
	return 1;
}
