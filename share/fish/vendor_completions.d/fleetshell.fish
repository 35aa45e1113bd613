# fish completion for fleetshell
function __fleetshell_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    for line in (command fleetshell --complete $words[2..-1] "$current" 2>/dev/null)
        if test "$line" = @files
            __fish_complete_path "$current"
        else
            echo $line
        end
    end
end
complete -c fleetshell -f -a '(__fleetshell_complete)'
