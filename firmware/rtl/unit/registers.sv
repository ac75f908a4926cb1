// The registers, and the checks of what is written there before anything begins (docs/unit.md has the table).
//
// A request on the bus is taken every cycle; a read has its word in the next. While the unit works, numbers and window
// may be read but not written: that is an error, and changes nothing. It works from a doorbell on, which is looked at
// for three cycles.
module unit_registers #(
  parameter int unsigned E = 256,
  parameter int unsigned K = 8,
  parameter int unsigned LAYERS = 1,
  parameter int unsigned WORDS = 4,
  parameter int unsigned CHOICES = 512,
  parameter int unsigned TOKENS = 1024,
  parameter int unsigned PLACES = 64,
  parameter int unsigned SIGMOID = 1,
  parameter int unsigned ID = $clog2(E)
) (
  input  logic        clk,
  input  logic        rst_n,
  // Bus.
  input  logic        bus_request,
  input  logic        bus_write,
  input  logic [7:0]  bus_address,
  input  logic [31:0] bus_write_data,
  output logic [31:0] bus_read_data,
  // The doorbell: a command that was found right, or aborts.
  input  logic        running,
  output logic        busy,
  output logic        ring,
  output logic        abort,
  output logic [31:0] command,
  // Errors that are seen later, and what else is read.
  input  logic [11:0] errors,
  input  logic [31:0] cycles,
  input  logic [31:0] snr,
  input  logic [31:0] angle,
  input  logic [1:0]  lock,
  input  logic        lost_lock,
  input  logic [31:0] recall_found,
  input  logic [11:0] next_layer,
  output logic [11:0] error,
  // Numbers.
  output logic [ID:0] experts,
  output logic [6:0]  k,
  output logic [6:0]  keep_top,
  output logic [ID:0] capacity,
  output logic        error_bound,
  output logic        of_chosen,
  output logic        sigmoid,
  output logic        scored,
  output logic [3:0]  open,
  output logic [3:0]  size_log2,
  output logic        two_best,
  output logic [31:0] eps_mass,
  output logic [31:0] eps_error,
  output logic [31:0] process_noise,
  output logic [31:0] reopened,
  output logic [31:0] fast_gain,
  output logic [31:0] phase,
  output logic [15:0] acquire,
  output logic [11:0] recall_layers,
  output logic [6:0]  recall_k,
  output logic [16:0] recall_tokens,
  output logic [8:0]  recall_places,
  output logic        recall_changed,
  // The window: into which memory a word is written, or that all read.
  output logic [7:0]  window_write,
  output logic        window_read,
  output logic [31:0] window_address,
  output logic [31:0] window_data,
  input  logic [31:0] window_word
);
  localparam logic [5:0] NAME = 6'd0, SIZES = 6'd1, STATUS = 6'd2, ERROR = 6'd3, DOORBELL = 6'd4, EXPERTS = 6'd5,
    CHOSEN = 6'd6, ROUTER = 6'd7, KEEP_TOP = 6'd8, CAPACITY = 6'd9, EPS_MASS = 6'd10, EPS_ERROR = 6'd11,
    PROCESS = 6'd12, REOPENED = 6'd13, FAST_GAIN = 6'd14, PHASE = 6'd15, ACQUIRE = 6'd16, RECALL_SHAPE = 6'd17,
    RECALL_TOKENS = 6'd18, RECALL_PLACES = 6'd19, CYCLES = 6'd20, SNR = 6'd21, ANGLE = 6'd22, LOCK = 6'd23,
    FOUND = 6'd24, NEXT_LAYER = 6'd25, ADDRESS = 6'd26, DATA = 6'd27, RECALL_SIZES = 6'd28, GROUPS = 6'd29;
  // Errors, by bit: what went on is not ended by them.
  localparam int unsigned BUSY = 0, RANGE = 1, REFUSED = 2, COMMAND = 3;

  // The router as the wire's descriptors say it: bits 3:0 the score (0 softmax over all, 1 over the chosen, 2 sigmoid),
  // 8 weights are divided by their sum, 9 the error is bounded, 10 the choice is by score and bias; any other bit is
  // something that the unit does not do. Scores are done if weights are divided, a bias if nobody stands in.
  logic [31:0] router;
  // Bits 3:0 the logarithm of the experts of a group, 7:4 how many are open, 8 whether they are rated by their two
  // best.
  logic [9:0] groups;
  wire [5:0] register_at = bus_address[7:2];
  wire write = bus_request & bus_write;
  wire [31:0] value = bus_write_data;
  wire [3:0] asked = command[3:0];
  wire [ID:0] experts_now = experts;

  // What a command needs to be right.
  logic [18:0] choices, few_choices, many_choices, most_choices;
  always_ff @(posedge clk) begin
    few_choices <= 19'(recall_layers) * 19'(recall_k[2:0]);
    many_choices <= 19'(recall_layers) * 19'(recall_k[5:3]);
    most_choices <= recall_k[6] ? 19'(recall_layers) : '0;
    choices <= few_choices + (many_choices << 3) + (most_choices << 6);
  end
  wire refused = (router & ~32'h0000_0703) != '0 | (router[1] & (router[0] | ~router[8] | SIGMOID == 0))
               | (router[10] & (~router[1] | eps_mass != '0));
  // Groups divide the experts, are 32 at most, and those that are open have as many experts as a token takes.
  logic [ID:0] group_count, of_group;
  logic [ID+4:0] open_experts;
  logic groups_range;
  always_ff @(posedge clk) begin
    group_count <= experts >> size_log2;
    of_group <= ~({ID + 1{1'b1}} << size_log2);
    open_experts <= (ID + 5)'(open) << size_log2;
    groups_range <= groups[9] | (open != '0 & ((experts & of_group) != '0 | open > 4'd8 | size_log2 > 4'(ID)
                  | group_count > (ID + 1)'(32) | (ID + 1)'(open) > group_count | 32'(open_experts) < 32'(k)));
  end
  wire router_range = experts == '0 | experts > (ID + 1)'(E) | k == '0 | 32'(k) > K | 32'(k) > 32'(experts_now)
                    | capacity > (ID + 1)'(E) | (router[10] & groups_range);
  wire layer_range = 32'(command[31:16]) >= LAYERS;
  wire recall_range = recall_layers == '0 | recall_k == '0 | 32'(choices) > CHOICES | choices > 19'd4095
                    | 32'(recall_k) > 64 | recall_tokens < 17'd64 | 32'(recall_tokens) > TOKENS
                    | recall_places == '0 | 32'(recall_places) > PLACES;
  logic known, in_range, flags;
  always_comb begin
    known = 1'b1;
    in_range = 1'b1;
    flags = command[15:7] == '0;
    case (asked)
      4'd1: in_range = ~router_range & ~layer_range;
      4'd2: begin
        in_range = ~(layer_range & command[5]) & experts != '0 & experts <= (ID + 1)'(E);
        flags = command[15:7] == '0 & ~command[4];
      end
      4'd3: flags = command[15:4] == '0;
      4'd4: begin
        in_range = ~layer_range;
        flags = command[15:4] == '0;
      end
      4'd5: begin
        in_range = ~recall_range & experts != '0 & experts <= (ID + 1)'(E);
        flags = command[15:4] == '0;
      end
      default: known = 1'b0;
    endcase
  end
  wire doorbell = write & register_at == DOORBELL;
  wire aborts = doorbell & value[3:0] == 4'd6 & value[15:4] == '0;
  logic [2:0] pending;
  logic wrong_command, out_of_range, router_wrong;
  always_ff @(posedge clk) begin
    wrong_command <= ~known | ~flags;
    out_of_range <= ~in_range;
    router_wrong <= asked == 4'd1 & refused;
  end
  // It ends when its errors can be read.
  assign busy = running | abort | pending != '0 | errors != '0;
  assign ring = pending[2] & ~wrong_command & ~out_of_range & ~router_wrong;
  // What is written through the window is read again after that.
  always_ff @(posedge clk) window_data <= value;

  always_ff @(posedge clk or negedge rst_n) begin
    if (!rst_n) begin
      error <= '0;
      command <= '0;
      {abort, pending} <= '0;
      window_address <= '0;
      {window_read, window_write} <= '0;
      {experts, k, keep_top, capacity, eps_mass, eps_error, router, groups} <= '0;
      {process_noise, reopened, fast_gain, phase, acquire} <= '0;
      {recall_layers, recall_k, recall_tokens, recall_places} <= '0;
      recall_changed <= 1'b0;
    end else begin
      window_read <= window_write != '0;
      window_write <= '0;
      recall_changed <= 1'b0;
      abort <= aborts;
      pending <= {pending[1:0], doorbell & ~aborts & ~busy};
      if (doorbell && !aborts && !busy) command <= value;
      error <= (write && register_at == ERROR ? error & ~value[11:0] : error) | errors;
      if (write && register_at != ERROR && busy && !aborts) error[BUSY] <= 1'b1;
      if (pending[2] && wrong_command) error[COMMAND] <= 1'b1;
      else if (pending[2] && out_of_range) error[RANGE] <= 1'b1;
      else if (pending[2] && router_wrong) error[REFUSED] <= 1'b1;
      if (write && !busy) begin
        case (register_at)
          EXPERTS: begin
            experts <= value > E ? '1 : value[ID:0];
            recall_changed <= value != 32'(experts);
          end
          CHOSEN: k <= value > 32'd127 ? '1 : value[6:0];
          ROUTER: router <= value;
          GROUPS: groups <= {value[31:9] != '0, value[8:0]};
          KEEP_TOP: keep_top <= value > 32'd127 ? '1 : value[6:0];
          CAPACITY: capacity <= value > E ? '1 : value[ID:0];
          EPS_MASS: eps_mass <= value;
          EPS_ERROR: eps_error <= value;
          PROCESS: process_noise <= value;
          REOPENED: reopened <= value;
          FAST_GAIN: fast_gain <= value;
          PHASE: phase <= value;
          ACQUIRE: acquire <= value[15:0];
          RECALL_SHAPE: begin
            recall_layers <= value[27:16];
            recall_k <= value[15:7] != '0 || value[31:28] != '0 ? '1 : value[6:0];
            recall_changed <= 1'b1;
          end
          RECALL_TOKENS: begin
            recall_tokens <= value > 32'h1_0000 ? '1 : value[16:0];
            recall_changed <= 1'b1;
          end
          RECALL_PLACES: begin
            recall_places <= value > 32'd511 ? '1 : value[8:0];
            recall_changed <= 1'b1;
          end
          ADDRESS: begin
            window_address <= value;
            window_read <= 1'b1;
          end
          DATA: window_write <= 8'd1 << window_address[30:28];
          default: ;
        endcase
      end
    end
  end
  assign error_bound = router[9];
  assign of_chosen = router[0] | router[8];
  assign sigmoid = router[1];
  assign scored = router[10];
  assign {two_best, open, size_log2} = groups[8:0];

  always_ff @(posedge clk) begin
    if (bus_request) begin
      case (register_at)
        NAME: bus_read_data <= 32'h7570_7401;
        SIZES: bus_read_data <= {16'(LAYERS), 16'(E)};
        RECALL_SIZES: bus_read_data <= {8'(K), SIGMOID != 0, 7'(WORDS), 16'(TOKENS - 1)};
        STATUS: bus_read_data <= {30'd0, error != '0, busy};
        ERROR: bus_read_data <= 32'(error);
        EXPERTS: bus_read_data <= 32'(experts);
        CHOSEN: bus_read_data <= 32'(k);
        ROUTER: bus_read_data <= router;
        GROUPS: bus_read_data <= {22'd0, groups};
        KEEP_TOP: bus_read_data <= 32'(keep_top);
        CAPACITY: bus_read_data <= 32'(capacity);
        EPS_MASS: bus_read_data <= eps_mass;
        EPS_ERROR: bus_read_data <= eps_error;
        PROCESS: bus_read_data <= process_noise;
        REOPENED: bus_read_data <= reopened;
        FAST_GAIN: bus_read_data <= fast_gain;
        PHASE: bus_read_data <= phase;
        ACQUIRE: bus_read_data <= 32'(acquire);
        RECALL_SHAPE: bus_read_data <= {4'd0, recall_layers, 9'd0, recall_k};
        RECALL_TOKENS: bus_read_data <= 32'(recall_tokens);
        RECALL_PLACES: bus_read_data <= 32'(recall_places);
        CYCLES: bus_read_data <= cycles;
        SNR: bus_read_data <= snr;
        ANGLE: bus_read_data <= angle;
        LOCK: bus_read_data <= {23'd0, lost_lock, 6'd0, lock};
        FOUND: bus_read_data <= recall_found;
        NEXT_LAYER: bus_read_data <= 32'(next_layer);
        ADDRESS: bus_read_data <= window_address;
        DATA: bus_read_data <= window_word;
        default: bus_read_data <= '0;
      endcase
    end
  end
endmodule
