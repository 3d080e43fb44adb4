/*
 * The oracle of seccomp_oracle.rs: builds a filter with libseccomp and writes its BPF program to stdout.
 *
 * Input, one a line: "default ACTION", "arch TOKEN", "rule ACTION NAME COUNT (ARGUMENT OPERATOR VALUE VALUE2)*", numbers
 * as in <seccomp.h>. Rules with the default's action and unknown names are left out, as runc does.
 */
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *word(void) { return strtok(NULL, " \n"); }

int main(void)
{
    static char line[1 << 16];
    scmp_filter_ctx filter = NULL;
    unsigned fallback = 0;
    while (fgets(line, sizeof line, stdin)) {
        char *verb = strtok(line, " \n");
        if (!verb)
            continue;
        if (!strcmp(verb, "default")) {
            fallback = strtoul(word(), NULL, 0);
            filter = seccomp_init(fallback);
        } else if (!strcmp(verb, "arch")) {
            int result = seccomp_arch_add(filter, strtoul(word(), NULL, 0));
            if (result && result != -17)
                return 2;
        } else if (!strcmp(verb, "rule")) {
            unsigned action = strtoul(word(), NULL, 0);
            int number = seccomp_syscall_resolve_name(word());
            int count = atoi(word());
            struct scmp_arg_cmp compare[6];
            for (int i = 0; i < count; i++) {
                compare[i].arg = atoi(word());
                compare[i].op = atoi(word());
                compare[i].datum_a = strtoull(word(), NULL, 0);
                compare[i].datum_b = strtoull(word(), NULL, 0);
            }
            if (action == fallback || number == __NR_SCMP_ERROR)
                continue;
            if (seccomp_rule_add_array(filter, action, number, count, compare))
                return 3;
        }
    }
    return seccomp_export_bpf(filter, 1) ? 4 : 0;
}
