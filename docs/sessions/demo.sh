. /mnt/type.sh
type_and_run 'lifeboat demo' 4
